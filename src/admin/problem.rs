//! What the operators' listener says when it doesn't do as it was asked (RFC 9457).

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::telemetry::ids;

/// Why it was not done.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    field: Option<(HeaderName, HeaderValue)>,
}

/// Its body.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub struct Body {
    pub title: String,
    pub status: u16,
    /// For people.
    pub detail: String,
}

/// Beside an answer, for whoever writes down what came of a request.
#[derive(Clone)]
pub(super) struct Why(pub(super) String);

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            detail: detail.into(),
            field: None,
        }
    }

    /// Something in the request is not as it should be.
    pub fn bad(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    /// What it takes is not there: a state directory, a file that can be written.
    pub fn unavailable(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub fn with(self, name: HeaderName, value: HeaderValue) -> Problem {
        Problem {
            field: Some((name, value)),
            ..self
        }
    }
}

/// A few seconds, not the same for all.
pub(super) fn later() -> HeaderValue {
    HeaderValue::from(1 + ids::random() % 3)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            title: self.status.canonical_reason().unwrap_or("").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        // It is two texts and a number.
        let text = serde_json::to_string(&body).unwrap_or_default() + "\n";
        let kind = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status, [(header::CONTENT_TYPE, kind)], text).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, later());
        }
        if let Some((name, value)) = self.field {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(Why(body.detail));
        response
    }
}
