//! The config as it was written: the file, and the flags over it.

use super::Flags;
use super::options::{
    Admin, Backend, Cache, Challenge, Fallback, Geo, Identity, Limit, List, Listen, Log, Redis,
    Route, Rule, State, Upstream,
};
use super::report::{At, Mistake};
use super::syntax;
use super::walk::{Env, Found, Given, Walk};

/// What was written, each value with its place, defaults where nothing was.
#[derive(Clone, Debug)]
pub struct File {
    pub listen: Listen,
    pub upstreams: Vec<Upstream>,
    pub routes: Vec<Route>,
    pub lists: Vec<List>,
    pub geo: Geo,
    pub rules: Vec<Rule>,
    pub identity: Identity,
    pub limits: Vec<Limit>,
    pub redis: Redis,
    pub cache: Cache,
    pub fallback: Fallback,
    pub challenge: Challenge,
    pub state: State,
    pub admin: Admin,
    pub log: Log,
}

/// Reads a file's text and lays the flags over it; `mistakes` gets every one.
pub fn read(text: &str, flags: &Flags, env: Env<'_>, mistakes: &mut Vec<Mistake>) -> File {
    let (root, hidden) = syntax::parse(text, mistakes);
    let mut walk = Walk::new(text, hidden, env, mistakes);
    walk.headers(&root);

    macro_rules! one {
        ($Table:ident) => {{
            let found = walk.one(&root, &$Table::TABLE);
            $Table::read(&mut walk, &found)
        }};
    }
    macro_rules! all {
        ($Table:ident) => {{
            let founds = walk.all(&root, &$Table::TABLE);
            let read = |found| $Table::read(&mut walk, found);
            founds.iter().map(read).collect::<Vec<_>>()
        }};
    }
    let mut file = File {
        listen: one!(Listen),
        upstreams: all!(Upstream),
        routes: all!(Route),
        lists: all!(List),
        geo: one!(Geo),
        rules: all!(Rule),
        identity: one!(Identity),
        limits: all!(Limit),
        redis: one!(Redis),
        cache: one!(Cache),
        fallback: one!(Fallback),
        challenge: one!(Challenge),
        state: one!(State),
        admin: one!(Admin),
        log: one!(Log),
    };
    if file.routes.is_empty() && !root.contains_key(Route::TABLE.name) {
        let found = walk.one(&root, &Route::TABLE);
        file.routes.push(Route::read(&mut walk, &found));
    }
    file.lay_over(flags, &mut walk);
    file
}

/// Reads `[admin]` alone and lays `--admin` over it; `mistakes` gets those of that table, and of the syntax.
pub fn read_admin(text: &str, flags: &Flags, env: Env<'_>, mistakes: &mut Vec<Mistake>) -> Admin {
    let (root, hidden) = syntax::parse(text, mistakes);
    let mut walk = Walk::new(text, hidden, env, mistakes);
    let found = walk.one(&root, &Admin::TABLE);
    let mut admin = Admin::read(&mut walk, &found);
    lay_admin(&mut admin, flags, &mut walk);
    admin
}

/// Reads what tells where a running proxy is to be asked: `[listen]`, `[state]` and `[admin]`.
pub fn read_reach(text: &str, env: Env<'_>, mistakes: &mut Vec<Mistake>) -> (Listen, State, Admin) {
    let (root, hidden) = syntax::parse(text, mistakes);
    let mut walk = Walk::new(text, hidden, env, mistakes);
    let found = walk.one(&root, &Listen::TABLE);
    let listen = Listen::read(&mut walk, &found);
    let found = walk.one(&root, &State::TABLE);
    let state = State::read(&mut walk, &found);
    let found = walk.one(&root, &Admin::TABLE);
    (listen, state, Admin::read(&mut walk, &found))
}

impl File {
    fn lay_over(&mut self, flags: &Flags, walk: &mut Walk<'_>) {
        if let Some(text) = &flags.listen {
            lay(&mut self.listen.address, walk.flag("--listen", text, None));
        }
        lay_admin(&mut self.admin, flags, walk);
        if let Some(text) = &flags.default_ttl {
            let bounds = Route::TABLE
                .option("default_ttl")
                .and_then(|option| option.bounds);
            let ttl = walk.flag("--default-ttl", text, bounds);
            for route in &mut self.routes {
                lay(&mut route.default_ttl, ttl.clone());
            }
        }
        if !flags.origins.is_empty() {
            self.lay_origins(&flags.origins, walk);
        }
    }

    /// `--origin` gives the only upstream its servers, or makes one.
    fn lay_origins(&mut self, origins: &[String], walk: &mut Walk<'_>) {
        let flag = "--origin";
        let servers: Vec<Option<Given<Backend>>> = origins
            .iter()
            .map(|text| walk.flag(flag, text, None))
            .collect();
        let at = match servers.iter().all(Option::is_some) {
            true => At::Flag(flag),
            false => At::Told,
        };
        let value = servers
            .into_iter()
            .flatten()
            .map(|server| server.value)
            .collect();
        let servers = Given::new(value, at);
        if self.upstreams.is_empty() {
            self.upstreams.push(Upstream::read(walk, &Found::nothing()));
        }
        match self.upstreams.as_mut_slice() {
            [only] => only.servers = servers,
            many => {
                let many = many.len();
                let what = format!("the file has {many} upstreams, and --origin could mean any");
                let help = "leave --origin out, or write the servers in the file";
                walk.tell(Mistake::new(&At::Flag(flag), what).help(help));
            }
        }
    }
}

fn lay_admin(admin: &mut Admin, flags: &Flags, walk: &mut Walk<'_>) {
    if let Some(text) = &flags.admin {
        lay(&mut admin.address, walk.flag("--admin", text, None));
    }
}

/// A flag over the file; one that can't be read has been told and changes nothing.
fn lay<T>(option: &mut Given<T>, flag: Option<Given<T>>) {
    if let Some(given) = flag {
        *option = given;
    }
}
