//! More come than can be served, of requests that nobody shares: on tokio's paused clock.

use std::net::{IpAddr, Ipv4Addr};

use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::*;
use crate::rules::client::Client;

const AT_ONCE: usize = 8;
const TAKES: Duration = Duration::from_millis(50);

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), between 0 and 1.
fn random(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + 1e-17
}

/// How long those took that were served while the crowd came, sorted.
async fn crowd(times: f64, seed: u64) -> Vec<Duration> {
    let budget = Budget::new(
        vec![Role {
            most: None,
            ..Role::default()
        }],
        terms(1024, 0, Balance::P2c),
    );
    let origin = Arc::new(Semaphore::new(AT_ONCE));
    let lasts = Duration::from_secs(6);
    let rate = times * AT_ONCE as f64 / TAKES.as_secs_f64();
    let (began, mut seed) = (clock::timer(), seed);
    let mut asked = Vec::new();
    loop {
        sleep(Duration::from_secs_f64(-random(&mut seed).ln() / rate)).await;
        let now = clock::timer();
        if now - began >= lasts {
            break;
        }
        let client = Ipv4Addr::from(0x7F00_0001 + (random(&mut seed) * 1000.0) as u32);
        let (budget, origin) = (budget.clone(), origin.clone());
        asked.push(tokio::spawn(async move {
            let ask = Ask {
                client: Some(Client::of(IpAddr::from(client), 64)),
                ..Ask::default()
            };
            let slot = budget.slot(Duration::from_secs(2), ask).await.ok()?;
            let asked = clock::timer();
            let place = origin.acquire().await.ok()?;
            sleep(TAKES).await;
            drop(place);
            budget.answered(slot.server(), None, clock::timer() - asked);
            slot.fate().answered();
            drop(slot);
            (clock::timer() - began < lasts).then(|| clock::timer() - now)
        }));
    }
    let mut took = Vec::new();
    for one in asked {
        took.extend(one.await.unwrap());
    }
    took.sort();
    took
}

#[tokio::test(start_paused = true)]
async fn who_is_served_has_not_waited_long_however_much_comes() {
    for (times, most) in [(1.2, 650), (1.5, 600), (2.0, 200), (3.0, 200), (10.0, 180)] {
        for seed in 1..=4 {
            let took = crowd(times, seed).await;
            let p99 = took[took.len() * 99 / 100];
            // The origin is good for 960.
            assert!(
                took.len() >= 870 && p99 <= Duration::from_millis(most),
                "{times} times, seed {seed}: {} served, p99 {p99:?}",
                took.len()
            );
        }
    }
}
