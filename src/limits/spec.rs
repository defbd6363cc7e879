//! What a limit is, as the config says it.

use std::time::Duration;

use http::HeaderName;

use super::standing::Tier;

/// One limit.
#[derive(Clone, Debug)]
pub struct LimitSpec {
    /// What metrics, logs and clients are told.
    pub name: String,
    pub key: Key,
    pub rate: Option<Rate>,
    /// Requests of a client at once.
    pub concurrency: Option<u16>,
    /// The places in the policy of the routes it is for; none: every request, those of no route too.
    pub routes: Vec<usize>,
    /// Its place among the limits that hold where a rule says so, and nowhere else. None: it holds by itself.
    pub by_rules: Option<u8>,
    /// None: all.
    pub methods: Vec<String>,
    pub counts: Counts,
    pub cost: Cost,
    pub action: Action,
    pub max_delay: Duration,
    pub penalty: Duration,
    pub max_clients: usize,
    pub tell: Tell,
    /// Whether a fleet has its rate together.
    pub shared: bool,
    /// Whether `X-RateLimit-*` is told beside `RateLimit`.
    pub x_ratelimit: bool,
    /// Rates of those who are known for who they are, instead of `rate`.
    pub tiers: Vec<TierRate>,
    /// Whose limit it is: of everybody, or of a tier, whose clients count for themselves wherever they are.
    pub tier: Option<String>,
}

/// What those of a tier may.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TierRate {
    pub tier: Tier,
    pub name: String,
    pub rate: Rate,
}

impl LimitSpec {
    /// Whether it may meet requests of a route; none: of those that no route takes.
    pub fn is_for(&self, route: Option<usize>) -> bool {
        match (self.by_rules, route) {
            (Some(_), route) => route.is_some(),
            (None, Some(route)) => self.routes.is_empty() || self.routes.contains(&route),
            (None, None) => self.routes.is_empty(),
        }
    }
}

impl LimitSpec {
    /// Makes it so many times what it is: its rates, what may come at once, and what may be in hand.
    pub fn stretch(&mut self, times: f64) {
        let count = |count: u64| ((count as f64 * times).round() as u64).max(1);
        let rate = |rate: &mut Rate| {
            // The time and not the number, which may be small.
            rate.per = rate.per.div_f64(times);
            rate.burst = count(rate.burst);
        };
        self.rate.iter_mut().for_each(rate);
        self.tiers.iter_mut().for_each(|tier| rate(&mut tier.rate));
        let in_hand = self.concurrency.iter_mut();
        in_hand.for_each(|most| *most = u16::try_from(count(u64::from(*most))).unwrap_or(u16::MAX));
    }
}

/// So many requests a period, and so many at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    pub count: u64,
    pub per: Duration,
    pub burst: u64,
}

/// What makes two requests the same client's: every part is the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key(pub Vec<Part>);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// Of IPv6 the network.
    Address,
    Route,
    Host,
    /// What a field says, or, where there is none, the address.
    Header(HeaderName),
    Cookie(String),
    /// Whose API key it brings, or the address.
    ApiKey,
    /// Whom its token names in this claim, or the address.
    Jwt(String),
}

impl Part {
    /// Whether it has to be known who asks.
    pub fn goes_by_standing(&self) -> bool {
        matches!(self, Part::ApiKey | Part::Jwt(_))
    }
}

/// Which requests count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counts {
    All,
    /// Those that an origin is asked for.
    Origin,
}

/// What a request counts for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cost {
    Is(u64),
    /// A millisecond of an origin's time each, known afterwards.
    OriginMillis,
}

/// What becomes of a request beyond the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Refuse,
    /// It waits for its turn, if that is not too far off.
    Delay,
    /// It gets what is stored, however old that may be.
    Stale,
    /// It has to show a pass.
    Challenge,
    /// Nothing, but that it is counted and logged.
    Log,
}

/// Which answers say how much of a limit is left. All that are refused do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tell {
    Always,
    /// Once half of it is gone.
    Near,
    Refused,
}
