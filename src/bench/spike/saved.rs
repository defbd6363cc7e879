//! Reports that were written to a file.

use serde_json::Value;

use super::report::{FORM, Report};

/// Reads a report; `file` is what it is called in an error.
pub fn read(text: &str, file: &str) -> Result<Report, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("{file}: not JSON: {e}"))?;
    // Of another form, its fields may mean something else.
    match value.get("form").map(Value::as_u64) {
        Some(Some(form)) if form == u64::from(FORM) => {}
        Some(Some(form)) => {
            return Err(format!(
                "{file}: a report of form {form}; this program reads form {FORM}: measure again, or read it with the version that wrote it"
            ));
        }
        _ => return Err(format!("{file}: no report of a spike: it has no `form`")),
    }
    // Read from the text, an error has its line.
    serde_json::from_str(text).map_err(|e| format!("{file}: no report of form {FORM}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let report = sample::report(3);
        let text = serde_json::to_string_pretty(&report).expect("a report is JSON");
        assert_eq!(read(&text, "a.json"), Ok(report));
    }

    #[test]
    fn what_is_no_report_is_told_from_what_is_another_form() {
        let of = |text: &str| read(text, "a.json").expect_err("no report");
        assert!(of("{").starts_with("a.json: not JSON: "), "{}", of("{"));
        for text in ["{}", "[]", "3", "{\"form\": \"1\"}", "{\"form\": null}"] {
            assert_eq!(of(text), "a.json: no report of a spike: it has no `form`");
        }
        let newer = of("{\"form\": 2, \"runs\": 7}");
        assert!(
            newer.starts_with("a.json: a report of form 2; this program reads form 1"),
            "{newer}"
        );
        let broken = of("{\"form\": 1,\n\"made\": 7}");
        assert!(
            broken.starts_with("a.json: no report of form 1: invalid type")
                && broken.contains("line 2"),
            "{broken}"
        );
    }
}
