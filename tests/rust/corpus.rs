//! The corpora of the fuzz targets, replayed: what was once found, or written down beforehand, is tested with everything
//! else. The properties are those that the fuzzers search with.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use super::{Outcome, Test, properties};

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![("corpus::every_file_holds", every_file_holds)]
}

fn every_file_holds() -> Outcome {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut broken = Vec::new();
    for (target, holds) in properties::TARGETS {
        let folder = corpora.join(target);
        let told = |e: std::io::Error| format!("{}: {e}", folder.display());
        let mut count = 0;
        for entry in fs::read_dir(&folder).map_err(told)? {
            let path = entry.map_err(told)?.path();
            let bytes = fs::read(&path).map_err(told)?;
            count += 1;
            // The hook has printed why.
            if catch_unwind(|| holds(&bytes)).is_err() {
                broken.push(format!("{}: \"{}\"", path.display(), bytes.escape_ascii()));
            }
        }
        if count == 0 {
            return Err(format!("{} is empty", folder.display()));
        }
    }
    match broken.is_empty() {
        true => Ok(()),
        false => Err(broken.join("\n")),
    }
}
