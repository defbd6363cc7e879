//! The locks and pointers of the flight table, named in one place so that a test can put model-checked ones here.

pub use std::sync::Arc;
pub use std::sync::atomic::{AtomicU64, Ordering};

/// A mutex whose holder never panics with the data half written, so poisoning is not of interest.
#[derive(Debug, Default)]
pub struct Mutex<T>(parking_lot::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(parking_lot::Mutex::new(value))
    }

    pub fn lock(&self) -> parking_lot::MutexGuard<'_, T> {
        self.0.lock()
    }
}
