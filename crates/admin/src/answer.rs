//! Errors as clients get them: a status and `{"error":{"id","message"}}`.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use usher_directory::Error as DirectoryError;
use usher_failover::Error as FlipError;
use usher_mover::MoveError;

/// An error answer.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    id: &'static str,
    message: String,
}

impl Problem {
    /// An answer with that status and stable id.
    pub fn new(status: StatusCode, id: &'static str, message: impl Into<String>) -> Self {
        Self { status, id, message: message.into() }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({"error": {"id": self.id, "message": self.message}});
        (self.status, Json(body)).into_response()
    }
}

impl From<DirectoryError> for Problem {
    fn from(error: DirectoryError) -> Self {
        let (status, id) = match &error {
            DirectoryError::GlobalUnavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "global-unavailable"),
            DirectoryError::Timeout { .. } => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            DirectoryError::Busy { .. } => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            DirectoryError::ServerUnavailable { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "server-unavailable")
            }
            DirectoryError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            DirectoryError::SchemaChange { .. } => (StatusCode::CONFLICT, "schema-change"),
            DirectoryError::NotDrained { .. } | DirectoryError::LeftOver { .. } => {
                (StatusCode::CONFLICT, "not-drained")
            }
            DirectoryError::NotRevoked { .. } => (StatusCode::CONFLICT, "not-revoked"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Self::new(status, id, error.to_string())
    }
}

impl From<FlipError> for Problem {
    fn from(error: FlipError) -> Self {
        let (status, id) = match error {
            FlipError::Directory(inner) => return inner.into(),
            FlipError::NoShard(_) => (StatusCode::NOT_FOUND, "not-found"),
            FlipError::Refused { .. } => (StatusCode::CONFLICT, "flip-refused"),
            FlipError::Undone { .. } => (StatusCode::CONFLICT, "flip-undone"),
            FlipError::Taken { .. } => (StatusCode::CONFLICT, "flip-taken"),
            FlipError::Claim { .. } => (StatusCode::CONFLICT, "writer-refused"),
            FlipError::Stopped { .. } => (StatusCode::SERVICE_UNAVAILABLE, "flip-stopped"),
        };
        Self::new(status, id, error.to_string())
    }
}

impl From<MoveError> for Problem {
    fn from(error: MoveError) -> Self {
        let status = match error {
            MoveError::Directory(inner) => return inner.into(),
            MoveError::UnknownUser(_) | MoveError::UnknownShard(_) | MoveError::NoSuchMove(_) => {
                StatusCode::NOT_FOUND
            }
            MoveError::Server { .. } => StatusCode::SERVICE_UNAVAILABLE,
            MoveError::Phase(_) | MoveError::Data(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::CONFLICT,
        };
        Self::new(status, error.id(), error.to_string())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        let status = rejection.status();
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::new(status, "too-large", "the body is too large");
        }
        Self::bad(rejection.body_text())
    }
}
