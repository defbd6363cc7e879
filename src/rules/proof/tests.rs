use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_700_000_000;
const TERMS: Terms = Terms {
    bits: 8,
    pass: 3600,
    solve_within: 300,
};
const ANN: Whose<'static> = Whose {
    client: Client::V4([192, 0, 2, 1]),
    host: "a.test",
};

fn key() -> Key {
    Key::new(b"0123456789abcdef")
}

fn puzzle(terms: &Terms) -> Puzzle {
    Puzzle::make(&key(), ANN, terms, 7, NOW)
}

/// The puzzle with the first nonce for which `holds` of the zero bits.
fn with_nonce(puzzle: &Puzzle, holds: impl Fn(u32) -> bool) -> Vec<u8> {
    let tries = (0..u32::MAX).map(|nonce| {
        let nonce = format!("{nonce:08x}");
        [puzzle.text(), nonce.as_bytes()].concat()
    });
    let mut tries = tries;
    tries.find(|text| holds(zero_bits(text))).unwrap()
}

fn solve(puzzle: &Puzzle, bits: u32) -> Vec<u8> {
    with_nonce(puzzle, |zeros| zeros >= bits)
}

fn judged(solution: &[u8], now: u64) -> Verdict {
    judge(&key(), ANN, &TERMS, solution, now)
}

fn pass() -> Pass {
    match judged(&solve(&puzzle(&TERMS), 8), NOW) {
        Verdict::Solved(pass) => pass,
        other => panic!("{other:?}"),
    }
}

fn admitted(pass: &Pass, now: u64) -> bool {
    admits(&key(), ANN, &TERMS, &pass.0, now)
}

#[test]
fn zero_bits_are_those_of_sha256() {
    // FIPS 180-2, appendix B.1: ba7816bf…
    assert_eq!(zero_bits(b"abc"), 0);
    // A well-known text whose hash begins with 0000c3af….
    assert_eq!(zero_bits(b"Hello, world!4250"), 16);
}

#[test]
fn what_is_solved_is_let_in_until_its_end() {
    let pass = pass();
    for (now, is) in [
        (NOW, true),
        (NOW + 3599, true),
        (NOW + 3600, false),
        (NOW + 1_000_000, false),
    ] {
        assert_eq!(admitted(&pass, now), is, "{now}");
    }
}

#[test]
fn a_solution_twice_is_the_same_pass_twice() {
    let solution = solve(&puzzle(&TERMS), 8);
    assert_eq!(judged(&solution, NOW), judged(&solution, NOW + 300));
    let other = Puzzle::make(&key(), ANN, &TERMS, 8, NOW);
    assert_ne!(puzzle(&TERMS), other, "each has a salt of its own");
}

#[test]
fn a_puzzle_is_worth_something_for_a_while() {
    let solution = solve(&puzzle(&TERMS), 8);
    assert!(matches!(judged(&solution, NOW + 300), Verdict::Solved(_)));
    assert_eq!(judged(&solution, NOW + 301), Verdict::Expired);
    // The clock stepped back, or another proxy's is ahead.
    assert!(matches!(judged(&solution, NOW - 60), Verdict::Solved(_)));
    assert_eq!(judged(&solution, NOW - 61), Verdict::Expired);
    assert_eq!(judged(&solution, 0), Verdict::Expired);
    assert_eq!(judged(&solution, u64::MAX), Verdict::Expired);
}

#[test]
fn no_pass_outlives_a_clock_that_steps_back() {
    let pass = pass();
    assert!(admitted(&pass, NOW - 60));
    assert!(!admitted(&pass, NOW - 61));
    assert!(!admitted(&pass, 0));
    assert!(!admitted(&pass, u64::MAX));
}

#[test]
fn who_asks_for_less_ends_passes_that_were_for_longer() {
    let pass = pass();
    let short = Terms { pass: 60, ..TERMS };
    assert!(!admits(&key(), ANN, &short, &pass.0, NOW));
}

#[test]
fn a_solution_needs_all_its_bits() {
    for bits in [1, 7, 8, 12] {
        let terms = Terms { bits, ..TERMS };
        let bits = u32::from(bits);
        let almost = with_nonce(&puzzle(&terms), |zeros| zeros == bits - 1);
        assert_eq!(judged(&almost, NOW), Verdict::Wrong, "{bits}");
        let exactly = with_nonce(&puzzle(&terms), |zeros| zeros == bits);
        // The puzzle says how many, whatever would be asked for now.
        assert!(
            matches!(judged(&exactly, NOW), Verdict::Solved(_)),
            "{bits}"
        );
    }
}

#[test]
fn an_easier_puzzle_can_not_be_made_of_a_hard_one() {
    let hard = Terms { bits: 24, ..TERMS };
    let mut text = *puzzle(&hard).text();
    text[10..12].copy_from_slice(b"00");
    let easy = Puzzle(text);
    assert_eq!(judged(&solve(&easy, 8), NOW), Verdict::Wrong);
}

#[test]
fn both_are_one_clients_at_one_host() {
    let (solution, pass) = (solve(&puzzle(&TERMS), 8), pass());
    let v6 = |last: u8| Client::V6([0x20, 1, 0x0d, 0xb8, 0, 0, 0, last]);
    for other in [
        Whose {
            client: Client::V4([192, 0, 2, 2]),
            ..ANN
        },
        Whose {
            client: v6(1),
            ..ANN
        },
        // The octets of the address, and nothing behind them.
        Whose {
            client: Client::V6([192, 0, 2, 1, 0, 0, 0, 0]),
            ..ANN
        },
        Whose {
            host: "b.test",
            ..ANN
        },
        Whose {
            host: "a.test:8080",
            ..ANN
        },
        Whose { host: "", ..ANN },
    ] {
        assert_eq!(judge(&key(), other, &TERMS, &solution, NOW), Verdict::Wrong);
        assert!(!admits(&key(), other, &TERMS, &pass.0, NOW), "{other:?}");
    }
    let of = |client| Puzzle::make(&key(), Whose { client, ..ANN }, &TERMS, 7, NOW);
    assert_ne!(of(v6(1)), of(v6(2)));
}

#[test]
fn another_key_knows_neither() {
    let other = Key::new(b"fedcba9876543210");
    let solution = solve(&puzzle(&TERMS), 8);
    assert_eq!(judge(&other, ANN, &TERMS, &solution, NOW), Verdict::Wrong);
    assert!(!admits(&other, ANN, &TERMS, &pass().0, NOW));
    assert_eq!(format!("{other:?}"), "Key");
}

#[test]
fn neither_stands_for_the_other() {
    let puzzle = puzzle(&TERMS);
    // The beginning of a puzzle has the shape of a pass's.
    let forged = [&puzzle.text()[..PASS_FACTS], &puzzle.text()[PUZZLE_FACTS..]].concat();
    assert!(!admits(&key(), ANN, &TERMS, &forged, NOW));
    // A key that signs puzzles for a pass's facts would sign passes.
    let same = key().tag("tidegate puzzle\n", &pass().0[..PASS_FACTS], ANN);
    assert!(Token::read(&pass().0[PASS_FACTS..]) != Some(same));
}

#[test]
fn the_cookie_is_kept_from_scripts_and_other_hosts() {
    let pass = pass();
    let text = std::str::from_utf8(&pass.0).unwrap();
    assert_eq!(
        pass.line(Scheme::Https, NOW + 100),
        format!(
            "__Host-tidegate-pass={text}; Path=/; Max-Age=3500; HttpOnly; SameSite=Lax; Secure"
        )
    );
    assert_eq!(
        pass.line(Scheme::Http, NOW),
        format!("tidegate_pass={text}; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax")
    );
    for scheme in [Scheme::Http, Scheme::Https] {
        let name = cookie(scheme).to_owned() + "=1";
        assert!(identity::pairs(name.as_bytes()).all(|pair| pair.is_own()));
    }
}

#[test]
fn a_pass_is_found_among_cookies() {
    let pass = pass();
    let text = std::str::from_utf8(&pass.0).unwrap();
    let brings = |line: String, scheme| {
        let mut fields = HeaderMap::new();
        fields.append("cookie", HeaderValue::from_static("a=b"));
        fields.append("cookie", HeaderValue::try_from(line).unwrap());
        brings(&fields, scheme, &key(), ANN, &TERMS, NOW)
    };
    let junk = |count: usize| "tidegate_pass=x; ".repeat(count);
    for (line, scheme, is) in [
        (format!("tidegate_pass={text}"), Scheme::Http, true),
        (format!("c=d; tidegate_pass={text};"), Scheme::Http, true),
        (format!("__Host-tidegate-pass={text}"), Scheme::Https, true),
        (format!("tidegate_pass={text}"), Scheme::Https, false),
        (format!("__Host-tidegate-pass={text}"), Scheme::Http, false),
        (format!("Tidegate_pass={text}"), Scheme::Http, false),
        (format!("tidegate_pass=\"{text}\""), Scheme::Http, false),
        (
            format!("{}tidegate_pass={text}", junk(3)),
            Scheme::Http,
            true,
        ),
        (
            format!("{}tidegate_pass={text}", junk(4)),
            Scheme::Http,
            false,
        ),
        (junk(1000), Scheme::Http, false),
    ] {
        assert_eq!(brings(line.clone(), scheme), is, "{line}");
    }
}

proptest! {
    /// Whatever is sent, only what was made lets in.
    #[test]
    fn no_forged_pass_is_accepted(
        at in 0..PASS,
        byte in any::<u8>(),
        noise in proptest::collection::vec(any::<u8>(), 0..200),
        digits in "1[0-9a-f]{41}",
        ends in any::<u64>(),
    ) {
        let mut changed = pass().0;
        changed[at] = byte;
        prop_assert_eq!(
            admits(&key(), ANN, &TERMS, &changed, NOW),
            changed == pass().0
        );
        prop_assert!(!admits(&key(), ANN, &TERMS, &noise, NOW));
        prop_assert!(!admits(&key(), ANN, &TERMS, digits.as_bytes(), NOW));
        // With the tag of another end.
        let mut longer = pass().0;
        write_hex(ends.into(), &mut longer[1..PASS_FACTS]);
        prop_assert!(longer == pass().0 || !admits(&key(), ANN, &TERMS, &longer, NOW));
        for length in 0..PASS {
            prop_assert!(!admits(&key(), ANN, &TERMS, &pass().0[..length], NOW));
        }
    }

    /// A changed puzzle is none, however well it is solved.
    #[test]
    fn no_forged_puzzle_is_accepted(at in 0..PUZZLE, byte in any::<u8>(), noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut text = *puzzle(&TERMS).text();
        text[at] = byte;
        let changed = Puzzle(text);
        let verdict = judged(&solve(&changed, 8), NOW);
        prop_assert_eq!(matches!(verdict, Verdict::Solved(_)), changed == puzzle(&TERMS));
        prop_assert_eq!(judged(&noise, NOW), Verdict::Wrong);
    }
}
