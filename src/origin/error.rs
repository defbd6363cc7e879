//! What can go wrong on the way to an origin, and what a client is told (RFC 9110 §15.6.3, §15.6.5).

use std::fmt;

/// An exchange that failed. The connection it was on is never used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginError {
    pub kind: OriginErrorKind,
    /// No final head had been received: another answer may still be given to the client.
    pub before_head: bool,
    /// For the log: one line, no bytes of the origin's.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OriginErrorKind {
    /// Refused, unreachable, or not the protocol that was asked for.
    Connect,
    /// TCP and TLS together took longer than `connect_timeout`.
    ConnectTimeout,
    /// The handshake failed, or the certificate was not believed.
    Tls,
    /// No complete head within `first_byte_timeout` of the end of the request.
    FirstByteTimeout,
    /// Silence for `between_bytes_timeout` amid a body, whichever its direction.
    BetweenBytes,
    /// The whole exchange took longer than `total_timeout`.
    Total,
    /// The connection ended before the answer did.
    Reset,
    /// The answer breaks the rules of HTTP; the text names the rule.
    Malformed(&'static str),
    /// More head, fields or interim answers than are read from anybody.
    TooLarge,
    /// The request could not be sent, or its body is not what was announced.
    Write,
}

impl OriginError {
    /// A deadline had passed.
    pub(super) fn is_late(&self) -> bool {
        use OriginErrorKind as Kind;
        matches!(
            self.kind,
            Kind::ConnectTimeout | Kind::FirstByteTimeout | Kind::BetweenBytes | Kind::Total
        )
    }
}

impl OriginErrorKind {
    /// A name for metrics and logs, from a fixed set.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Tls => "tls",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::BetweenBytes => "between_bytes_timeout",
            Self::Total => "total_timeout",
            Self::Reset => "reset",
            Self::Malformed(_) => "malformed",
            Self::TooLarge => "too_large",
            Self::Write => "write",
        }
    }
}

impl OriginError {
    pub(super) fn new(kind: OriginErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            before_head: true,
            detail: detail.into(),
        }
    }

    pub(super) fn malformed(why: &'static str) -> Self {
        Self::new(OriginErrorKind::Malformed(why), why)
    }

    /// What a client that waits for the head is told: 504 for a deadline that passed, else 502.
    pub fn status(&self) -> u16 {
        match self.kind {
            OriginErrorKind::ConnectTimeout
            | OriginErrorKind::FirstByteTimeout
            | OriginErrorKind::BetweenBytes
            | OriginErrorKind::Total => 504,
            OriginErrorKind::Connect
            | OriginErrorKind::Tls
            | OriginErrorKind::Reset
            | OriginErrorKind::Malformed(_)
            | OriginErrorKind::TooLarge
            | OriginErrorKind::Write => 502,
        }
    }
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.label(), self.detail)
    }
}

impl std::error::Error for OriginError {}
