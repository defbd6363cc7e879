//! Configuration, from a file and flags to one believed [`Policy`].
//!
//! [`options`] declares every option once. The [`walk`] over a file's spanned table makes of it a [`file::File`], as
//! written, and [`compile`](mod@compile) a [`policy::Policy`], as believed. Nothing stops at the first mistake: a
//! [`Report`] has them all, each with its line and what to write instead.

pub mod certificate;
mod compile;
pub mod credentials;
pub mod file;
mod fixed;
mod hide;
pub mod keys;
pub mod limiting;
pub mod live;
pub mod nearest;
pub mod options;
pub mod plan;
pub mod policy;
pub mod render;
pub mod report;
pub mod schema;
pub mod sharing;
pub mod steering;
pub mod syntax;
pub mod table;
pub mod units;
pub mod value;
pub mod walk;
pub mod words;

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;

pub use compile::World;
pub use policy::Policy;
use policy::{SocketPlace, StateDir};
pub use report::Report;
use report::{At, Mistake};
pub use steering::Secret;
use value::OrOff;

/// What the command line says over the file, as typed.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Servers of the only upstream.
    pub origins: Vec<String>,
    pub listen: Option<String>,
    pub admin: Option<String>,
    /// For every route.
    pub default_ttl: Option<String>,
}

/// The policy of a file, if there is one, and the flags over it.
///
/// # Errors
/// Every mistake of both; or that the file can't be read.
pub fn load(path: Option<&Path>, flags: &Flags) -> Result<Policy, Report> {
    let (name, text) = source(path)?;
    with_system(|world| believe(name, text, flags, world))
}

/// The policy of a source, and the text of its file.
///
/// # Errors
/// Every mistake of both; or that the file can't be read.
pub fn read(source: &live::Source) -> Result<(Policy, String), Report> {
    let (name, text) = self::source(source.path.as_deref())?;
    let believed = |world: &World<'_>| believe(name, text.clone(), &source.flags, world);
    Ok((with_system(believed)?, text))
}

/// Where the admin listener of a file and the flags over it is; None where it is off. Nothing else of the file is read
/// and nothing looked up: whoever asks about a running proxy asks whatever has become of its file or its app since.
///
/// # Errors
/// Every mistake in `[admin]` and the syntax; or that the file can't be read.
pub fn admin_address(path: Option<&Path>, flags: &Flags) -> Result<Option<SocketAddr>, Report> {
    let (name, text) = source(path)?;
    let mut mistakes = Vec::new();
    let env = |name: &str| std::env::var(name).ok();
    let admin = file::read_admin(&text, flags, &env, &mut mistakes);
    match (mistakes.is_empty(), admin.address.value) {
        (false, _) => Err(Report::new(name, text, mistakes)),
        (true, OrOff::On(address)) => Ok(Some(address)),
        (true, OrOff::Off) => Ok(None),
    }
}

/// Where a running proxy is to be asked, as a file says.
#[derive(Debug)]
pub struct Reach {
    /// Where visitors come in.
    pub listen: SocketAddr,
    pub state: StateDir,
    /// None: not over TCP.
    pub admin: Option<SocketAddr>,
    pub socket: SocketPlace,
    /// None: it lies in the state directory.
    pub token: Option<Secret>,
}

/// Where the proxy of a file is to be asked, or one without a file. Nothing else of it is read, nor the token's own file.
///
/// # Errors
/// Every mistake in `[listen]`, `[state]`, `[admin]` and the syntax; or that the file can't be read.
pub fn reach(path: Option<&Path>) -> Result<Reach, Report> {
    let (name, text) = source(path)?;
    let mut mistakes = Vec::new();
    let env = |name: &str| std::env::var(name).ok();
    let (listen, state, admin) = file::read_reach(&text, &env, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(Report::new(name, text, mistakes));
    }
    Ok(Reach {
        listen: listen.address.value,
        state: compile::state(&state),
        socket: compile::socket(&admin),
        admin: admin.address.value.on(),
        token: admin.token.value,
    })
}

/// A file's name and text; without a file, no text.
fn source(path: Option<&Path>) -> Result<(Option<String>, String), Report> {
    let Some(path) = path else {
        return Ok((None, String::new()));
    };
    let name = path.display().to_string();
    let told = |mistake, text| Report::new(Some(name.clone()), text, vec![mistake]);
    let bytes = fs::read(path).map_err(|error| {
        let mistake = Mistake::new(&At::Default, format!("can't read the config file: {error}"));
        told(mistake, String::new())
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let from = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        told(
            Mistake::new(&At::File(from..from + 1), "this is not UTF-8"),
            text,
        )
    })?;
    Ok((Some(name), text))
}

/// The policy of a config text; `name` stands for the file in mistakes.
///
/// # Errors
/// The mistakes, as they are shown.
pub fn compile(name: &str, text: &str) -> Result<Policy, String> {
    let flags = Flags::default();
    with_system(|world| believe(Some(name.to_owned()), text.to_owned(), &flags, world))
        .map_err(|report| report.to_string())
}

/// The policy of a config text and flags in the given world; `name` stands for the file in mistakes.
///
/// # Errors
/// Every mistake.
pub fn believe(
    name: Option<String>,
    text: String,
    flags: &Flags,
    world: &World<'_>,
) -> Result<Policy, Report> {
    let mut mistakes = Vec::new();
    let file = file::read(&text, flags, world.env, &mut mistakes);
    let policy = compile::compile(&file, &text, world, &mut mistakes);
    match mistakes.is_empty() {
        true => Ok(Policy {
            file: name,
            ..policy
        }),
        false => Err(Report::new(name, text, mistakes)),
    }
}

/// Runs `with` in the world as it is.
fn with_system<T>(with: impl FnOnce(&World<'_>) -> T) -> T {
    with(&World {
        env: &|name| std::env::var(name).ok(),
        readable: &|path| {
            let file = fs::File::open(path)?;
            match file.metadata()?.is_dir() {
                true => Err(io::ErrorKind::IsADirectory.into()),
                false => Ok(()),
            }
        },
        read: &|path| fs::read(path),
        certificate: &|path| certificate::load(path).map(drop),
        unique: &|| {
            // The same for all the configs of a process.
            static NAME: OnceLock<String> = OnceLock::new();
            let drawn = || RandomState::new().hash_one(std::process::id());
            NAME.get_or_init(|| format!("tidegate-{:016x}", drawn()))
                .clone()
        },
        cores: thread::available_parallelism().map_or(1, usize::from),
    })
}

#[cfg(test)]
mod tests;
