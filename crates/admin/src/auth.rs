//! The token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::{Admin, Problem};

/// Lets requests with the token through.
pub(crate) async fn check(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    match verdict(&admin, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// As [`check`], unless the configuration opens the metrics.
pub(crate) async fn check_metrics(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    if admin.http.metrics_open {
        return next.run(request).await;
    }
    check(State(admin), request, next).await
}

fn verdict(admin: &Admin, request: &Request) -> Result<(), Problem> {
    let Some(token) = admin.http.token.as_deref().filter(|token| !token.is_empty()) else {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "api-off",
            "this call is off: the configuration has no http.token",
        ));
    };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|text| text.strip_prefix("Bearer ")).map(str::trim).unwrap_or_default();
    // In constant time for texts of equal length; the length is no secret.
    if bool::from(given.as_bytes().ct_eq(token.as_bytes())) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "send the header `Authorization: Bearer TOKEN` with the http.token of the configuration",
    ))
}
