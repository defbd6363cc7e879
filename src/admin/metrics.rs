//! `/metrics`: the Prometheus text format.

use axum::http::header;
use axum::response::IntoResponse;

use super::Desk;

/// Metrics, as Prometheus reads them
#[utoipa::path(
    get, path = "/metrics", security(()),
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(admin: Desk) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)];
    (kind, admin.metrics.render())
}
