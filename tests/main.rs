//! All that is tested from outside the crate: wire scripts below `tests/wire/`, each a test with a name, and a real app
//! behind the real binary (`tests/e2e/`).
//!
//! ```text
//! cargo test --test main                      # everything
//! cargo test --test main -- 9111-3            # scripts whose name holds this
//! cargo test --test main -- --coverage        # promises against what carries them
//! ```
//!
//! `TIDEGATE_BIN` names another binary to test than the one built beside this.

#[path = "e2e/fastapi.rs"]
mod fastapi;
mod harness;
mod rust;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use libtest_mimic::{Arguments, Failed, Trial};

use harness::coverage::Table;
use harness::stage;

/// Scripts wait more than they work.
const THREADS: usize = 8;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut scripts = Vec::new();
    gather(
        &root.join("tests/wire"),
        &root.join("tests/wire"),
        &mut scripts,
    );
    scripts.sort();
    if env::args().any(|arg| arg == "--coverage") {
        return coverage(root, &scripts);
    }
    let mut args = Arguments::from_args();
    if args.test_threads.is_none() {
        args.test_threads = Some(THREADS);
    }
    let bin = binary();
    let mut trials = Vec::new();
    let count = scripts.len();
    for (name, text) in scripts.clone() {
        let bin = bin.clone();
        trials.push(
            Trial::test(name, move || stage::run(&text, &bin).map_err(Failed::from))
                .with_kind("wire"),
        );
    }
    for (name, test) in fastapi::tests() {
        trials.push(Trial::test(name, move || test().map_err(Failed::from)).with_kind("e2e"));
    }
    for (name, test) in rust::tests() {
        trials.push(Trial::test(name, move || test().map_err(Failed::from)).with_kind("rust"));
    }
    trials.push(Trial::test("every-promise-is-carried", move || {
        let gaps = Table::read(root, &scripts)?.gaps();
        if gaps.is_empty() {
            Ok(())
        } else {
            Err(gaps.join("\n").into())
        }
    }));
    if !args.list {
        println!("{count} wire scripts");
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn coverage(root: &Path, scripts: &[(String, String)]) -> ExitCode {
    let gaps = match Table::read(root, scripts) {
        Ok(table) => {
            table.print();
            table.gaps()
        }
        Err(why) => vec![why],
    };
    for gap in &gaps {
        eprintln!("{gap}");
    }
    if gaps.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn binary() -> PathBuf {
    let beside = option_env!("CARGO_BIN_EXE_tidegate").unwrap_or("tidegate");
    env::var_os("TIDEGATE_BIN").map_or_else(|| PathBuf::from(beside), PathBuf::from)
}

/// All `*.wire` below a folder, as (name, text); the name is the path without its ending.
fn gather(folder: &Path, root: &Path, out: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            gather(&path, root, out);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "wire")
            && let (Ok(name), Ok(text)) = (path.strip_prefix(root), fs::read_to_string(&path))
        {
            out.push((name.with_extension("").display().to_string(), text));
        }
    }
}
