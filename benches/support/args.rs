//! From the command line to the exit code. `cargo bench` adds `--bench`, which means nothing here.

use super::report::Checks;
use std::collections::HashMap;
use std::process::ExitCode;

pub struct Args {
    /// Short runs: a smoke test of the program, no figures to quote.
    pub quick: bool,
    numbers: HashMap<String, u64>,
    words: HashMap<String, String>,
}

impl Args {
    /// The number behind the flag `name`, or `default`.
    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.numbers.get(name).copied().unwrap_or(default)
    }

    /// The word behind the flag `name`.
    pub fn word(&self, name: &str) -> Option<&str> {
        self.words.get(name).map(String::as_str)
    }
}

/// Reads the command line, measures, and tells the outcome: 0 when all held, 1 when not, 2 for a wrong argument.
/// `options` are the flags that take a number, each with what it says.
pub fn run(
    program: &str,
    about: &str,
    options: &[(&str, &str)],
    measure: impl FnOnce(&Args) -> Result<Checks, String>,
) -> ExitCode {
    run_with_words(program, about, options, &[], measure)
}

/// The same, with flags that take one of several words, or any where none are given.
pub fn run_with_words(
    program: &str,
    about: &str,
    options: &[(&str, &str)],
    choices: &[(&str, &[&str], &str)],
    measure: impl FnOnce(&Args) -> Result<Checks, String>,
) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| words.iter().any(|word| word == flag);
    if has("--help") || has("-h") {
        println!(
            "{about}\n\ncargo bench --bench {program} -- [--quick]{}{}",
            usage(options),
            usage_of(choices)
        );
        println!("\n\nTIDEGATE_BIN names the binary; without it, target/release/tidegate.");
        return ExitCode::SUCCESS;
    }
    if !has("--bench") && std::env::var_os("CARGO").is_some() {
        println!("{program}: measures, tests nothing; run it with cargo bench --bench {program}");
        return ExitCode::SUCCESS;
    }
    let args = match read(&words, options, choices) {
        Ok(args) => args,
        Err(why) => {
            eprintln!("{program}: {why}; see --help");
            return ExitCode::from(2);
        }
    };
    match measure(&args) {
        Ok(checks) => checks.exit(),
        Err(why) => {
            eprintln!("{program}: {why}");
            ExitCode::FAILURE
        }
    }
}

fn read(
    words: &[String],
    options: &[(&str, &str)],
    choices: &[(&str, &[&str], &str)],
) -> Result<Args, String> {
    let mut args = Args {
        quick: false,
        numbers: HashMap::new(),
        words: HashMap::new(),
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => args.quick = true,
            "--bench" => {}
            flag if options.iter().any(|(name, _)| *name == flag) => {
                let number = words.next().and_then(|value| value.parse().ok());
                let number = number.ok_or_else(|| format!("{flag} needs a number"))?;
                args.numbers.insert(flag.to_owned(), number);
            }
            other => {
                let choice = choices.iter().find(|(name, ..)| *name == other);
                let (flag, known, _) = choice.ok_or_else(|| format!("unknown argument {other}"))?;
                let fits = |word: &&String| known.is_empty() || known.contains(&word.as_str());
                let word = words.next().filter(fits);
                let word =
                    word.ok_or_else(|| format!("{flag} needs one of: {}", known.join(", ")))?;
                args.words.insert((*flag).to_owned(), word.clone());
            }
        }
    }
    Ok(args)
}

fn usage(options: &[(&str, &str)]) -> String {
    options
        .iter()
        .map(|(name, what)| format!("\n  {name} N  {what}"))
        .collect()
}

fn usage_of(choices: &[(&str, &[&str], &str)]) -> String {
    let line = |(name, known, what): &(&str, &[&str], &str)| {
        let value = match known.is_empty() {
            true => "WORD".to_owned(),
            false => known.join("|"),
        };
        format!("\n  {name} {value}  {what}")
    };
    choices.iter().map(line).collect()
}
