//! What is counted, and the Prometheus text of it.
//!
//! The road counts into [`RouteMetrics`] and [`UpstreamMetrics`], resolved when the policy is
//! compiled; gauges are closures that are asked when somebody scrapes. Names stand in [`names`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use super::labels::{CacheResult, OriginResult, RefreshResult, RefusedReason};
use super::names::{self, Family, Kind};
use super::sharded::{Counter, Sharded};

/// Classes of status: none, 1xx to 5xx.
const STATUS_LABELS: &[&str] = &["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Upper bounds of the latency buckets, in microseconds; one more bucket holds the rest.
const BOUNDS: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// The counts of one route.
#[derive(Default)]
pub struct RouteMetrics(Sharded<RouteShard>);

#[derive(Default)]
struct RouteShard {
    latency: Latency,
    bytes: AtomicU64,
    answers: [[AtomicU64; STATUS_LABELS.len()]; CacheResult::LABELS.len()],
}

impl RouteMetrics {
    /// Counts one answered request: its status (0 if none was sent), body bytes sent, and
    /// microseconds from the whole request head to the end of the answer.
    pub fn count(&self, result: CacheResult, status: u16, bytes: u64, micros: u64) {
        let class = match status / 100 {
            class @ 1..=5 => usize::from(class),
            _ => 0,
        };
        let mine = self.0.mine();
        mine.answers[result as usize][class].fetch_add(1, Relaxed);
        mine.bytes.fetch_add(bytes, Relaxed);
        mine.latency.count(micros);
    }

    /// Requests answered so.
    pub fn counted(&self, result: CacheResult) -> u64 {
        self.by_result(result as usize)
    }

    fn by_result(&self, result: usize) -> u64 {
        self.0.sum(|shard| {
            shard.answers[result]
                .iter()
                .map(|cell| cell.load(Relaxed))
                .sum()
        })
    }

    fn by_status(&self, class: usize) -> u64 {
        self.0.sum(|shard| {
            shard
                .answers
                .iter()
                .map(|row| row[class].load(Relaxed))
                .sum()
        })
    }
}

/// The counts of one upstream.
#[derive(Default)]
pub struct UpstreamMetrics(Sharded<UpstreamShard>);

#[derive(Default)]
struct UpstreamShard {
    head: Latency,
    results: [AtomicU64; OriginResult::LABELS.len()],
    refreshes: [AtomicU64; RefreshResult::LABELS.len()],
    refused: [AtomicU64; RefusedReason::LABELS.len()],
}

impl UpstreamMetrics {
    /// Counts one request to an origin, when it is over.
    pub fn count(&self, result: OriginResult) {
        self.0.mine().results[result as usize].fetch_add(1, Relaxed);
    }

    /// Counts the microseconds from a permit to the origin's head.
    pub fn head_after(&self, micros: u64) {
        self.0.mine().head.count(micros);
    }

    pub fn refreshed(&self, result: RefreshResult) {
        self.0.mine().refreshes[result as usize].fetch_add(1, Relaxed);
    }

    /// Counts a request that was not let through.
    pub fn refused(&self, reason: RefusedReason) {
        self.0.mine().refused[reason as usize].fetch_add(1, Relaxed);
    }
}

#[derive(Default)]
struct Latency {
    micros: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len() + 1],
}

impl Latency {
    fn count(&self, micros: u64) {
        let bucket = BOUNDS.iter().take_while(|&&bound| bound < micros).count();
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }
}

/// The registry. Getting a handle takes a lock and may allocate; counting through it does neither.
pub struct Metrics {
    routes: Mutex<BTreeMap<String, Arc<RouteMetrics>>>,
    upstreams: Mutex<BTreeMap<String, Arc<UpstreamMetrics>>>,
    counters: Mutex<BTreeMap<Labelled, Arc<Counter>>>,
    read: Mutex<BTreeMap<Labelled, Read>>,
    read_some: Mutex<BTreeMap<(&'static str, String), ReadSome>>,
}

/// A family's name, and labels.
type Labelled = (&'static str, Vec<String>);
type Read = Arc<dyn Fn() -> f64 + Send + Sync>;

/// Labels and values of series that come and go.
pub type Series = Vec<(Vec<String>, f64)>;
type ReadSome = Arc<dyn Fn() -> Series + Send + Sync>;

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let metrics = Metrics {
            routes: Mutex::default(),
            upstreams: Mutex::default(),
            counters: Mutex::default(),
            read: Mutex::default(),
            read_some: Mutex::default(),
        };
        metrics.gauge(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], || 1.0);
        metrics
    }

    /// The counts of the route with this label; the same for the same name, across reloads too.
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        self.routes
            .lock()
            .entry(name.to_owned())
            .or_default()
            .clone()
    }

    /// Every route's name and counts.
    pub fn routes(&self) -> Vec<(String, Arc<RouteMetrics>)> {
        let routes = self.routes.lock();
        let each = routes.iter();
        each.map(|(name, counts)| (name.clone(), Arc::clone(counts)))
            .collect()
    }

    /// For requests that found no route: the label is `-`.
    pub fn unrouted(&self) -> Arc<RouteMetrics> {
        self.route("-")
    }

    /// The counts of the upstream with this name.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        self.upstreams
            .lock()
            .entry(name.to_owned())
            .or_default()
            .clone()
    }

    /// Asks `read` for this gauge at each scrape. Registering again replaces it.
    pub fn gauge(
        &self,
        family: &'static Family,
        labels: &[&str],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        debug_assert_eq!(family.kind, Kind::Gauge, "{}", family.name);
        self.register(family, labels, Arc::new(read));
    }

    /// Asks `read` for a count that is kept elsewhere.
    pub fn count_from(
        &self,
        family: &'static Family,
        labels: &[&str],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        debug_assert_eq!(family.kind, Kind::Counter, "{}", family.name);
        self.register(family, labels, Arc::new(read));
    }

    /// Asks `read` at each scrape for what series of this family there are, and their values. `of`: whose they are; registering
    /// again replaces them. What `read` gives has to be bounded.
    pub fn series_from(
        &self,
        family: &'static Family,
        of: &str,
        read: impl Fn() -> Series + Send + Sync + 'static,
    ) {
        let key = (family.name, of.to_owned());
        self.read_some.lock().insert(key, Arc::new(read));
    }

    /// The counter that is shown under `family` with these labels; the same for the same labels, across reloads too.
    pub fn counter(&self, family: &'static Family, labels: &[&str]) -> Arc<Counter> {
        let key = labels.iter().map(|&value| value.to_owned()).collect();
        let mut counters = self.counters.lock();
        let counter = counters.entry((family.name, key)).or_insert_with(|| {
            let counter = Arc::new(Counter::default());
            let shown = counter.clone();
            self.count_from(family, labels, move || shown.total() as f64);
            counter
        });
        counter.clone()
    }

    fn register(&self, family: &'static Family, labels: &[&str], read: Read) {
        debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
        let labels = labels.iter().map(|&value| value.to_owned()).collect();
        self.read.lock().insert((family.name, labels), read);
    }

    /// The Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        let families: Vec<MetricFamily> = names::ALL
            .iter()
            .map(|family| self.collect(family))
            .filter(|family| !family.get_metric().is_empty())
            .collect();
        // It fails only for a family without samples, and those are gone.
        prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .unwrap_or_default()
    }

    fn collect(&self, family: &'static Family) -> MetricFamily {
        let mut samples = Samples {
            family,
            metrics: Vec::new(),
        };
        for (route, counts) in &*self.routes.lock() {
            if is(family, &names::REQUESTS) {
                for (at, result) in CacheResult::LABELS.iter().enumerate() {
                    samples.number(&[route, result], counts.by_result(at) as f64);
                }
            } else if is(family, &names::RESPONSES) {
                for (at, class) in STATUS_LABELS.iter().enumerate() {
                    samples.number(&[route, class], counts.by_status(at) as f64);
                }
            } else if is(family, &names::RESPONSE_BYTES) {
                samples.number(
                    &[route],
                    counts.0.sum(|shard| shard.bytes.load(Relaxed)) as f64,
                );
            } else if is(family, &names::REQUEST_SECONDS) {
                samples.histogram(&[route], counts.0.each().map(|shard| &shard.latency));
            }
        }
        for (upstream, counts) in &*self.upstreams.lock() {
            if is(family, &names::ORIGIN_REQUESTS) {
                for (at, result) in OriginResult::LABELS.iter().enumerate() {
                    samples.number(
                        &[upstream, result],
                        counts.0.sum(|shard| shard.results[at].load(Relaxed)) as f64,
                    );
                }
            } else if is(family, &names::REFRESHES) {
                for (at, result) in RefreshResult::LABELS.iter().enumerate() {
                    samples.number(
                        &[upstream, result],
                        counts.0.sum(|shard| shard.refreshes[at].load(Relaxed)) as f64,
                    );
                }
            } else if is(family, &names::ORIGIN_REFUSED) {
                for (at, reason) in RefusedReason::LABELS.iter().enumerate() {
                    samples.number(
                        &[upstream, reason],
                        counts.0.sum(|shard| shard.refused[at].load(Relaxed)) as f64,
                    );
                }
            } else if is(family, &names::ORIGIN_SECONDS) {
                samples.histogram(&[upstream], counts.0.each().map(|shard| &shard.head));
            }
        }
        // Asked outside the lock: what a closure does is not ours.
        let read: Vec<(Vec<String>, Read)> = (self.read.lock().iter())
            .filter(|((name, _), _)| *name == family.name)
            .map(|((_, labels), read)| (labels.clone(), read.clone()))
            .collect();
        for (labels, read) in read {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            samples.number(&labels, read());
        }
        let some: Vec<ReadSome> = (self.read_some.lock().iter())
            .filter(|((name, _), _)| *name == family.name)
            .map(|(_, read)| read.clone())
            .collect();
        // Each series once, whatever was given.
        let series: BTreeMap<_, _> = some.iter().flat_map(|read| read()).collect();
        for (labels, value) in series {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            samples.number(&labels, value);
        }
        samples.into_family()
    }
}

fn is(one: &'static Family, other: &'static Family) -> bool {
    std::ptr::eq(one, other)
}

/// The samples of one family, as the encoder wants them.
struct Samples {
    family: &'static Family,
    metrics: Vec<Metric>,
}

impl Samples {
    fn number(&mut self, labels: &[&str], value: f64) {
        let mut metric = Metric::from_label(self.pairs(labels));
        if self.family.kind == Kind::Counter {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    fn histogram<'a>(&mut self, labels: &[&str], shards: impl Iterator<Item = &'a Latency>) {
        let mut micros = 0u64;
        let mut counts = [0u64; BOUNDS.len() + 1];
        for shard in shards {
            micros = micros.wrapping_add(shard.micros.load(Relaxed));
            for (count, cell) in counts.iter_mut().zip(&shard.buckets) {
                *count += cell.load(Relaxed);
            }
        }
        let mut below = 0;
        let buckets = BOUNDS.iter().zip(&counts).map(|(&bound, &count)| {
            below += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound as f64 / 1e6);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(micros as f64 / 1e6);
        let mut metric = Metric::from_label(self.pairs(labels));
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    fn pairs(&self, labels: &[&str]) -> Vec<LabelPair> {
        let pairs = self.family.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        pairs.collect()
    }

    fn into_family(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.family.name.to_owned());
        family.set_help(self.family.help.to_owned());
        family.set_field_type(match self.family.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(self.metrics);
        family
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of the sample that starts with `series`.
    fn value(text: &str, series: &str) -> f64 {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}"))
            .parse()
            .unwrap()
    }

    fn series(text: &str) -> Vec<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
            .collect()
    }

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::new();
        let blog = metrics.route("blog");
        blog.count(CacheResult::Hit, 200, 1000, 90);
        blog.count(CacheResult::Hit, 304, 0, 100);
        blog.count(CacheResult::Miss, 200, 500, 101);
        blog.count(CacheResult::Error, 502, 20, 40_000_000);
        blog.count(CacheResult::Aborted, 0, 0, 1);
        let app = metrics.upstream("app");
        app.count(OriginResult::Timeout);
        app.head_after(2_000_000);
        app.refreshed(RefreshResult::Unchanged);
        metrics.gauge(&names::CACHE_BYTES, &[], || 42.0);
        metrics.gauge(&names::ORIGIN_BUDGET, &["app"], || 64.0);
        metrics.counter(&names::CONNECTIONS, &[]).add(7);

        let text = metrics.render();
        for (series, expected) in [
            (
                "tidegate_requests_total{route=\"blog\",result=\"hit\"}",
                2.0,
            ),
            (
                "tidegate_requests_total{route=\"blog\",result=\"miss\"}",
                1.0,
            ),
            (
                "tidegate_requests_total{route=\"blog\",result=\"pass\"}",
                0.0,
            ),
            (
                "tidegate_responses_total{route=\"blog\",status=\"2xx\"}",
                2.0,
            ),
            (
                "tidegate_responses_total{route=\"blog\",status=\"none\"}",
                1.0,
            ),
            ("tidegate_response_bytes_total{route=\"blog\"}", 1520.0),
            (
                "tidegate_request_seconds_bucket{route=\"blog\",le=\"0.0001\"}",
                3.0,
            ),
            (
                "tidegate_request_seconds_bucket{route=\"blog\",le=\"0.00025\"}",
                4.0,
            ),
            (
                "tidegate_request_seconds_bucket{route=\"blog\",le=\"30\"}",
                4.0,
            ),
            (
                "tidegate_request_seconds_bucket{route=\"blog\",le=\"+Inf\"}",
                5.0,
            ),
            ("tidegate_request_seconds_count{route=\"blog\"}", 5.0),
            ("tidegate_request_seconds_sum{route=\"blog\"}", 40.000292),
            (
                "tidegate_origin_requests_total{upstream=\"app\",result=\"timeout\"}",
                1.0,
            ),
            (
                "tidegate_origin_seconds_bucket{upstream=\"app\",le=\"2.5\"}",
                1.0,
            ),
            (
                "tidegate_refreshes_total{upstream=\"app\",result=\"unchanged\"}",
                1.0,
            ),
            ("tidegate_cache_bytes", 42.0),
            ("tidegate_origin_budget{upstream=\"app\"}", 64.0),
            ("tidegate_connections_total", 7.0),
        ] {
            assert_eq!(value(&text, series), expected, "{series}");
        }
        assert!(text.contains("# TYPE tidegate_request_seconds histogram\n"));
        assert!(text.contains("# TYPE tidegate_cache_bytes gauge\n"));
    }

    #[test]
    fn every_label_value_of_an_enum_has_its_own_place() {
        for (at, result) in CacheResult::ALL.iter().enumerate() {
            assert_eq!(*result as usize, at);
            assert_eq!(result.label(), CacheResult::LABELS[at]);
        }
    }

    #[test]
    fn c61_no_traffic_adds_a_series() {
        let metrics = Metrics::new();
        let (route, unrouted) = (metrics.route("blog"), metrics.unrouted());
        let before = series(&metrics.render());
        for status in 0..=u16::MAX {
            for &result in CacheResult::ALL {
                route.count(result, status, u64::from(status), u64::from(status) << 20);
            }
            unrouted.count(CacheResult::Refused, status, 0, 0);
        }
        assert_eq!(series(&metrics.render()), before);
    }

    #[test]
    fn a_route_keeps_its_counts_across_reloads() {
        let metrics = Metrics::new();
        metrics.route("blog").count(CacheResult::Hit, 200, 1, 1);
        metrics.route("blog").count(CacheResult::Hit, 200, 1, 1);
        let text = metrics.render();
        assert_eq!(
            value(
                &text,
                "tidegate_requests_total{route=\"blog\",result=\"hit\"}"
            ),
            2.0
        );
    }

    #[test]
    fn a_route_may_be_called_anything() {
        let metrics = Metrics::new();
        metrics
            .route("a\"b\\c\nd")
            .count(CacheResult::Hit, 200, 1, 1);
        let text = metrics.render();
        assert_eq!(
            value(
                &text,
                r#"tidegate_response_bytes_total{route="a\"b\\c\nd"}"#
            ),
            1.0
        );
    }

    #[test]
    fn registering_again_replaces() {
        let metrics = Metrics::new();
        metrics.gauge(&names::FLIGHTS, &[], || 1.0);
        metrics.gauge(&names::FLIGHTS, &[], || 2.0);
        let text = metrics.render();
        assert_eq!(value(&text, "tidegate_flights"), 2.0);
        assert_eq!(text.matches("\ntidegate_flights ").count(), 1);
    }
}
