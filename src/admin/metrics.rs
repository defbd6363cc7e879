//! `/metrics`: the Prometheus text format.

use super::Admin;
use super::reply::Reply;

pub(super) fn page(admin: &Admin) -> Reply {
    Reply::new(200, prometheus::TEXT_FORMAT, admin.metrics.render())
}
