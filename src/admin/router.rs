//! Every route of the operators' listener, once, and the document made of them.
//!
//! An endpoint is a function with a `utoipa::path` above it and a line in [`routes`]. Below `/v1/` it is behind the
//! [gate](super::gate): its [`Caller`](super::gate::Caller) is an extension of the request, its body comes as
//! [`Asked`](super::gate::Asked), its query as [`Asking`](super::gate::Asking), and what it changes is in the audit log without its
//! doing anything for that.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, Ref, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::{self, Problem};
use super::{
    Admin, audit, config, copies, fallback, gate, health, levers, metrics, purge, rehearsal,
    status, top,
};

/// Every route, and nothing else: the document is made of them.
fn routes() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::with_openapi(about())
        .routes(routes!(metrics::metrics))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(document))
        .routes(routes!(status::status))
        .routes(routes!(top::top))
        .routes(routes!(audit::audit))
        .routes(routes!(config::configs, config::apply))
        .routes(routes!(config::reload))
        .routes(routes!(config::roll_back))
        .routes(routes!(config::confirm))
        .routes(routes!(config::plan))
        .routes(routes!(levers::levers, levers::pull))
        .routes(routes!(levers::undo))
        .routes(routes!(purge::purge))
        .routes(routes!(fallback::fallback))
        .routes(routes!(rehearsal::check))
        .routes(routes!(copies::pages))
        .routes(routes!(copies::copy))
}

/// What listens.
pub(super) fn router(admin: Arc<Admin>) -> Router {
    let (router, api) = whole();
    // It is made of what is written in this program.
    let document = Document(api.to_json().unwrap_or_default().into());
    #[cfg(debug_assertions)]
    let router = router.route("/test/advance", axum::routing::post(super::turn_clock));
    router
        .method_not_allowed_fallback(not_allowed)
        .fallback(nothing_here)
        .layer(from_fn_with_state(Arc::clone(&admin), gate::gate))
        .layer(map_response(guarded))
        .layer(Extension(document))
        .with_state(admin)
}

/// The document of all routes.
pub fn openapi() -> OpenApi {
    whole().1
}

fn whole() -> (Router<Arc<Admin>>, OpenApi) {
    let (router, mut api) = routes().split_for_parts();
    for item in api.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.patch,
        ];
        for operation in operations.into_iter().flatten() {
            operation
                .responses
                .responses
                .insert("default".to_owned(), refusal().into());
        }
    }
    (router, api)
}

fn about() -> OpenApi {
    let mut components = Components::new();
    components.add_security_scheme(
        "token",
        SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
    );
    let mut schemas = vec![(problem::Body::name().into_owned(), problem::Body::schema())];
    problem::Body::schemas(&mut schemas);
    components.schemas.extend(schemas);
    let info = InfoBuilder::new()
        .title("Tidegate's admin API")
        .description(Some(
            "Questions to a running proxy and changes of it. Over TCP all below /v1/ takes the token; over the socket, its owner.",
        ))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(License::new(env!("CARGO_PKG_LICENSE"))));
    OpenApiBuilder::new()
        .info(info.build())
        .components(Some(components))
        .security(Some([SecurityRequirement::new("token", [""; 0])]))
        .build()
}

/// What any route may answer instead.
fn refusal() -> utoipa::openapi::Response {
    let body = Ref::from_schema_name(problem::Body::name());
    ResponseBuilder::new()
        .description("It was not done, and why (RFC 9457)")
        .content(
            "application/problem+json",
            ContentBuilder::new().schema(Some(body)).build(),
        )
        .build()
}

#[derive(Clone)]
struct Document(Bytes);

/// This document
#[utoipa::path(
    get, path = "/v1/openapi.json",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value))
)]
async fn document(Extension(document): Extension<Document>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document.0)
}

async fn nothing_here() -> Problem {
    let here = "here are /metrics, /healthz, /readyz and what /v1/openapi.json tells";
    Problem::new(StatusCode::NOT_FOUND, here)
}

async fn not_allowed(method: Method) -> Problem {
    let detail = format!("{method} is not for this path");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

/// What all answers say.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}
