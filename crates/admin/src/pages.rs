//! Health, metrics and the dashboard's page.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use crate::{Ctx, Problem};

/// The page of `GET /`: it holds no data and asks the API with the token that its reader gives.
const DASHBOARD: &str = include_str!("dashboard.html");
/// Scripts and styles of the page itself only, and nobody may frame it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub(crate) async fn dashboard() -> Response {
    let mut response = Html(DASHBOARD).into_response();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

pub(crate) async fn healthz(State(admin): Ctx) -> Response {
    match (admin.serving)() {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

pub(crate) async fn metrics(State(admin): Ctx) -> Response {
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, &admin.registry).is_err() {
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the metrics can't be written")
            .into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

pub(crate) async fn nothing_here() -> Problem {
    Problem::unknown("there is no such page or call")
}

pub(crate) async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "bad-method", "the call exists, but not with this method")
}
