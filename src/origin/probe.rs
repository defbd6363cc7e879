//! One probe of one server: a question of our own, and whether the answer does.
//!
//! A probe has a [`Upstream`] of its own, the [`twin`] of the one that visitors use: the same servers reached in the
//! same way, and nothing else in common. So it takes no permit, and no connection that anybody else has or will have.
//!
//! pingora-load-balancing has probes, too, and they would do with connections. But theirs have no deadline as a whole,
//! read a body without a bound, take HTTP/1 as it comes, and know neither trailers nor JSON.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora::http::RequestHeader;
use tokio::time::timeout;

use super::connect::{self, Source};
use super::error::{OriginError, OriginErrorKind};
use super::exchange::{Event, Exchange, OriginHead, Outgoing};
use super::server::Server;
use super::standing::Rules;
use super::upstream::{Protocol, Upstream, UpstreamSpec};
use crate::rules::breaker;
use crate::rules::health::{self, Expects, Hysteresis, MOST, Unfit};
use crate::telemetry::ProbeResult;

const AGENT: &str = concat!("tidegate-health/", env!("CARGO_PKG_VERSION"));

/// How the servers of an upstream are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSpec {
    pub check: Check,
    /// From one probe to the next.
    pub interval: Duration,
    /// For a whole probe.
    pub timeout: Duration,
    pub hysteresis: Hysteresis,
}

/// What a server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Nothing: a connection will do, with TLS where the server has it.
    Tcp,
    Http {
        method: Method,
        asking: Asking,
        expects: Expects,
    },
    /// grpc.health.v1, about a service or, where it is empty, the server.
    Grpc { asking: Asking, service: String },
}

/// What every kind of request has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asking {
    /// Path and query.
    pub target: String,
    /// Else the server's own.
    pub host: Option<String>,
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

/// A probe that did not go well.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) result: ProbeResult,
    /// For people: one line.
    pub(super) why: String,
}

/// A probe, made up and ready to be sent.
pub(super) struct Probe {
    question: Question,
    timeout: Duration,
    /// As it was written, for people.
    patience: String,
}

enum Question {
    Tcp,
    Http {
        head: Box<RequestHeader>,
        expects: Expects,
    },
    Grpc {
        head: Box<RequestHeader>,
        body: Bytes,
    },
}

/// The upstream that probes use. Its servers have the same places.
///
/// # Errors
/// As [`Upstream::new`].
pub(super) fn twin(spec: &UpstreamSpec, health: &HealthSpec) -> Result<Arc<Upstream>, String> {
    Upstream::new(UpstreamSpec {
        max_in_flight: Some(1),
        // No probe waits for another's connection, and none finds one that stood when the server was better.
        keepalive: Duration::ZERO,
        connect_timeout: health.timeout,
        first_byte_timeout: health.timeout,
        between_bytes_timeout: health.timeout,
        total_timeout: health.timeout,
        protocol: match health.check {
            Check::Grpc { .. } => Protocol::Http2,
            _ => spec.protocol,
        },
        health: None,
        sticky: None,
        // Its budget is nobody's.
        rules: Rules {
            eject_after: 0,
            ..spec.rules
        },
        breaker: breaker::Rules {
            after: 0,
            ..spec.breaker
        },
        ..spec.clone()
    })
}

impl Probe {
    /// # Errors
    /// A target that can't be one; the text is for the config's author.
    pub(super) fn new(spec: &HealthSpec) -> Result<Self, String> {
        let question = match &spec.check {
            Check::Tcp => Question::Tcp,
            Check::Http {
                method,
                asking,
                expects,
            } => {
                let mut head = head(method, asking)?;
                // Said as well as done; HTTP/2 leaves it out.
                set(&mut head, CONNECTION, HeaderValue::from_static("close"));
                Question::Http {
                    head,
                    expects: expects.clone(),
                }
            }
            Check::Grpc { asking, service } => {
                let mut head = head(&Method::POST, asking)?;
                let kind = HeaderValue::from_static("application/grpc");
                set(&mut head, CONTENT_TYPE, kind);
                set(&mut head, TE, HeaderValue::from_static("trailers"));
                Question::Grpc {
                    head,
                    body: health::grpc_question(service).into(),
                }
            }
        };
        Ok(Self {
            question,
            timeout: spec.timeout,
            patience: format!("{:?}", spec.timeout),
        })
    }

    /// Asks a server of the twin's.
    pub(super) async fn ask(
        &self,
        twin: &Arc<Upstream>,
        server: &Arc<Server>,
    ) -> Result<(), Failed> {
        let asked = timeout(self.timeout, self.question.ask(twin, server));
        match asked.await {
            Ok(Err(Why::Unfit(why))) => Err(Failed {
                result: ProbeResult::Unfit,
                why: why.to_string(),
            }),
            Ok(Err(Why::Origin(error))) if !error.is_late() => Err(Failed {
                result: match error.kind {
                    OriginErrorKind::Connect | OriginErrorKind::Tls => ProbeResult::Connect,
                    _ => ProbeResult::Broken,
                },
                why: error.detail,
            }),
            // Whichever of the deadlines was first: they are all the same.
            Ok(Err(Why::Origin(_))) | Err(_) => Err(Failed {
                result: ProbeResult::Timeout,
                why: format!("timed out after {}", self.patience),
            }),
            Ok(Ok(())) => Ok(()),
        }
    }
}

impl Failed {
    pub(super) fn broken(why: &str) -> Self {
        Self {
            result: ProbeResult::Broken,
            why: why.to_owned(),
        }
    }
}

enum Why {
    Origin(OriginError),
    Unfit(Unfit),
}

impl From<OriginError> for Why {
    fn from(error: OriginError) -> Self {
        Why::Origin(error)
    }
}

impl From<Unfit> for Why {
    fn from(unfit: Unfit) -> Self {
        Why::Unfit(unfit)
    }
}

impl Question {
    async fn ask(&self, twin: &Arc<Upstream>, server: &Arc<Server>) -> Result<(), Why> {
        match self {
            Question::Tcp => Ok(connect::reach(twin, server).await?),
            Question::Http { head, expects } => {
                let mut exchange = start(twin, server, head, Outgoing::None).await?;
                let head = answer(&mut exchange).await?;
                expects.judge_status(head.status)?;
                let (body, whole) = read(&mut exchange).await?;
                Ok(expects.judge_body(&body, whole)?)
            }
            Question::Grpc { head, body } => {
                let outgoing = Outgoing::Length(body.len() as u64);
                let mut exchange = start(twin, server, head, outgoing).await?;
                exchange.send_body(body.clone()).await?;
                exchange.end_body().await?;
                let head = answer(&mut exchange).await?;
                if head.status != 200 {
                    return Err(Unfit::Status(head.status).into());
                }
                let (body, whole) = read(&mut exchange).await?;
                if !whole {
                    return Err(Unfit::TooLong.into());
                }
                let of = |fields: &HeaderMap| fields.get("grpc-status").cloned();
                let status = exchange.trailers().and_then(of).or(of(&head.fields));
                let status = status.as_ref().map(HeaderValue::as_bytes);
                Ok(health::judge_grpc(status, &body)?)
            }
        }
    }
}

async fn start(
    twin: &Arc<Upstream>,
    server: &Arc<Server>,
    head: &RequestHeader,
    body: Outgoing,
) -> Result<Exchange, OriginError> {
    Exchange::at(twin, server, Box::new(head.clone()), body, Source::New).await
}

/// The final head.
async fn answer(exchange: &mut Exchange) -> Result<OriginHead, OriginError> {
    loop {
        match exchange.next().await? {
            Event::Head(head) => return Ok(head),
            Event::Interim { .. } => {}
            Event::Body(_) | Event::End | Event::Switched(_) => {
                return Err(OriginError::malformed("no head"));
            }
        }
    }
}

/// The body, and whether that is all of it. What is longer is left where it is.
async fn read(exchange: &mut Exchange) -> Result<(Vec<u8>, bool), OriginError> {
    let mut body = Vec::new();
    loop {
        match exchange.next().await? {
            Event::Body(piece) => {
                let room = MOST - body.len();
                body.extend_from_slice(&piece[..piece.len().min(room)]);
                if piece.len() > room {
                    return Ok((body, false));
                }
            }
            Event::End => return Ok((body, true)),
            Event::Interim { .. } | Event::Head(_) | Event::Switched(_) => {}
        }
    }
}

fn head(method: &Method, asking: &Asking) -> Result<Box<RequestHeader>, String> {
    let target = asking.target.as_bytes();
    let mut head = RequestHeader::build(method.clone(), target, None)
        .map_err(|why| format!("a health check of {:?}: {why}", asking.target))?;
    set(&mut head, USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(host) = &asking.host
        && let Ok(host) = HeaderValue::from_str(host)
    {
        set(&mut head, HOST, host);
    }
    for (name, value) in &asking.fields {
        set(&mut head, name.clone(), value.clone());
    }
    Ok(Box::new(head))
}

fn set(head: &mut RequestHeader, name: HeaderName, value: HeaderValue) {
    // Fails only for names and values that don't parse; these have been parsed.
    let _ = head.insert_header(name, value);
}
