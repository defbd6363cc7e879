//! What wire scripts cannot say: the flight table under a model checker, the arrows between rooms, the invariants
//! of the architecture, hot pages, origins and clients that speak TLS and HTTP/2, what `tidegate health` makes of odd
//! answers, that the container's files say what is true, mutated requests at a strict origin.

mod arrows;
mod container;
mod differential;
mod flight_table;
mod health;
mod hot;
mod http2;
mod invariants;
mod origins;
mod site;
mod tls;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    [
        arrows::tests(),
        container::tests(),
        differential::tests(),
        flight_table::tests(),
        health::tests(),
        hot::tests(),
        http2::tests(),
        invariants::tests(),
        origins::tests(),
        tls::tests(),
    ]
    .concat()
}

type Outcome = Result<(), String>;
pub type Test = (&'static str, fn() -> Outcome);
