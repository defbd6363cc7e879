//! One script from start to verdict: origins up, the proxy in front of them, the phases, and the checks that hold after
//! every script whatever it tested.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::Fault;
use super::actor::Actor;
use super::clock;
use super::meet::Meeting;
use super::origin::Origin;
use super::proxy::{Proxy, base_config, free_port, lay_over};
use super::script::{Act, Script, Step};
use super::text::Scope;
use super::wire::PATIENCE;

pub struct Stage {
    pub script: Script,
    pub meeting: Meeting,
    pub listen: std::net::SocketAddr,
    pub admin: std::net::SocketAddr,
    origins: Vec<Arc<Origin>>,
    proxy: Mutex<Option<Arc<Proxy>>>,
    dir: tempfile::TempDir,
    bin: PathBuf,
    advanced: Mutex<Duration>,
    kept: Mutex<Vec<(String, String)>>,
    notes: Mutex<Vec<String>>,
}

/// Runs one script; the error is a report that can be read.
pub fn run(text: &str, bin: &Path) -> Result<(), String> {
    let mut script = Script::parse(text).map_err(|fault| fault.to_string())?;
    let fails = script.fails.take();
    let stage = Stage::new(script, bin)?;
    let verdict = stage.perform();
    stage.meeting.finish();
    for origin in &stage.origins {
        origin.retire();
    }
    if let Ok(proxy) = stage.proxy() {
        proxy.stop();
    }
    match (verdict, fails) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(wanted)) => Err(format!("it had to fail like {wanted}, and passed")),
        (Err(fault), Some(wanted)) => {
            let found = super::text::regex(&wanted)?.is_match(fault.to_string().as_bytes());
            if found {
                Ok(())
            } else {
                Err(format!("it had to fail like {wanted}, but: {fault}"))
            }
        }
        (Err(fault), None) => Err(stage.report(&fault)),
    }
}

impl Stage {
    fn new(mut script: Script, bin: &Path) -> Result<Arc<Stage>, String> {
        let origins: Vec<_> = script
            .origins
            .iter_mut()
            .map(|origin| {
                Arc::new(Origin::new(
                    origin.name.clone(),
                    std::mem::take(&mut origin.answers),
                ))
            })
            .collect();
        let listen = match origins.first() {
            Some(origin) if script.direct => origin.address,
            _ => free_port(),
        };
        let stage = Stage {
            script,
            meeting: Meeting::default(),
            listen,
            admin: free_port(),
            origins,
            proxy: Mutex::new(None),
            dir: tempfile::tempdir().map_err(|error| error.to_string())?,
            bin: bin.to_owned(),
            advanced: Mutex::new(Duration::ZERO),
            kept: Mutex::default(),
            notes: Mutex::new(Vec::new()),
        };
        stage.invite();
        Ok(Arc::new(stage))
    }

    /// Counts who will come to each barrier.
    fn invite(&self) {
        fn barriers(steps: &[Step]) -> impl Iterator<Item = &str> {
            steps.iter().filter_map(|step| match &step.act {
                Act::Sync(name) => Some(name.as_str()),
                _ => None,
            })
        }
        for party in self.script.phases.iter().flatten() {
            barriers(&party.steps).for_each(|name| self.meeting.invite(name));
        }
        for answer in self.origins.iter().flat_map(|origin| origin.answers()) {
            for _ in 0..answer.times.unwrap_or(1) {
                barriers(&answer.steps).for_each(|name| self.meeting.invite(name));
            }
        }
    }

    fn perform(self: &Arc<Stage>) -> Result<(), Fault> {
        let told = |why: String| Fault::at(0, why);
        for (origin, scripted) in self.origins.iter().zip(&self.script.origins) {
            origin.door(self, scripted.door).map_err(told)?;
        }
        self.write_config().map_err(told)?;
        let parties = || self.script.phases.iter().flatten();
        if !self.script.direct && parties().any(|party| party.name.starts_with("client")) {
            let flags: Vec<_> = self
                .filled(&self.script.flags)
                .map_err(told)?
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            let proxy = Proxy::start(
                &self.bin,
                &self.config_file(),
                &flags,
                self.listen,
                self.admin,
            )
            .map_err(told)?;
            *self.proxy.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(proxy));
        }
        for phase in &self.script.phases {
            thread::scope(|scope| {
                for party in phase {
                    scope.spawn(|| {
                        let mut actor = Actor::client(self, &party.name);
                        for step in &party.steps {
                            if let Err(fault) = actor.step(step) {
                                return self.meeting.fail(fault);
                            }
                        }
                    });
                }
            });
            if let Some(fault) = self.meeting.fault() {
                return Err(fault);
            }
        }
        match self.proxy() {
            Ok(proxy) => proxy
                .healthy()
                .map_err(|why| told(format!("after the script: {why}"))),
            Err(_) => Ok(()),
        }
    }

    fn config_file(&self) -> PathBuf {
        self.dir.path().join("tidegate.toml")
    }

    fn write_config(&self) -> Result<(), String> {
        let written = self.filled(&self.script.config.text)?;
        let config = if self.script.config.raw {
            written
        } else {
            let origin = self
                .origins
                .first()
                .map_or_else(free_port, |origin| origin.address);
            lay_over(
                &base_config(self.listen, self.admin, origin, self.dir.path()),
                &written,
            )?
        };
        std::fs::write(self.config_file(), config).map_err(|error| error.to_string())
    }

    /// `{listen}`, `{admin}`, `{dir}`, `{config}`, `{origin}` or `{NAME}` of an origin put in.
    pub fn filled(&self, text: &str) -> Result<String, String> {
        let mut out = text.to_owned();
        for (hole, value) in self.names() {
            out = out.replace(&format!("{{{hole}}}"), &value);
        }
        Ok(out)
    }

    fn names(&self) -> Vec<(String, String)> {
        let dir = self.dir.path().display().to_string();
        let mut names = vec![
            ("listen".to_owned(), self.listen.to_string()),
            ("admin".to_owned(), self.admin.to_string()),
            (
                "config".to_owned(),
                self.config_file().display().to_string(),
            ),
            ("dir".to_owned(), dir),
        ];
        for (index, origin) in self.origins.iter().enumerate() {
            if index == 0 {
                names.push(("origin".to_owned(), origin.address.to_string()));
            }
            names.push((origin.name.clone(), origin.address.to_string()));
        }
        names
    }

    /// Calls with what holes may name now.
    pub fn scoped<T>(&self, call: impl FnOnce(&Scope) -> T) -> T {
        let advanced = *self.advanced.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let names = |name: &str| {
            let find = |names: &[(String, String)]| {
                names
                    .iter()
                    .rev()
                    .find(|(held, _)| held == name)
                    .map(|(_, value)| value.clone())
            };
            find(&self.names()).or_else(|| find(&kept()))
        };
        let keep = |name: &str, value: &[u8]| {
            kept().push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
        };
        call(&Scope {
            names: &names,
            advanced,
            keep: &keep,
        })
    }

    /// What is kept under a name; `value` itself where nothing was, and kept.
    pub fn recall(&self, name: &str, value: &str) -> String {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.iter().find(|(held, _)| held == name) {
            Some((_, before)) => before.clone(),
            None => {
                kept.push((name.to_owned(), value.to_owned()));
                value.to_owned()
            }
        }
    }

    pub fn origin(&self, name: Option<&str>) -> Result<&Arc<Origin>, String> {
        let named = |origin: &&Arc<Origin>| name.is_none_or(|name| name == origin.name);
        self.origins
            .iter()
            .find(named)
            .ok_or_else(|| "no such origin".into())
    }

    pub fn proxy(&self) -> Result<Arc<Proxy>, String> {
        let proxy = self.proxy.lock().unwrap_or_else(PoisonError::into_inner);
        proxy.clone().ok_or_else(|| "no proxy runs".into())
    }

    pub fn advance(&self, by: Duration) -> Result<(), String> {
        self.proxy()?.advance(by)?;
        *self.advanced.lock().unwrap_or_else(PoisonError::into_inner) += by;
        Ok(())
    }

    /// The access log so far, an object a line.
    pub fn access_log(&self) -> Result<Vec<serde_json::Value>, String> {
        let text = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).map_err(|error| format!("{error}: {line}")))
            .collect()
    }

    /// Runs `tidegate ARGS` to its end.
    pub fn command(&self, args: &str) -> Result<(Option<i32>, String, String), String> {
        let args = self.filled(args)?;
        let told = |error: std::io::Error| format!("{}: {error}", self.bin.display());
        let mut child = Command::new(&self.bin)
            .args(args.split_whitespace())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(told)?;
        let deadline = clock::now() + PATIENCE * 2;
        while child.try_wait().map_err(told)?.is_none() {
            if clock::now() > deadline {
                let _ = child.kill();
                let output = child.wait_with_output().map_err(told)?;
                return Err(format!(
                    "it did not end\n{}",
                    String::from_utf8_lossy(&output.stderr)
                ));
            }
            thread::sleep(Duration::from_millis(2));
        }
        let output = child.wait_with_output().map_err(told)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        ))
    }

    /// One line of what happened, told if the script fails.
    pub fn note(&self, what: &str) {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(what.to_owned());
    }

    fn report(&self, fault: &Fault) -> String {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = format!("{fault}\n\n  what happened (last 30):\n");
        for note in &notes[notes.len().saturating_sub(30)..] {
            out.push_str(&format!("  {note}\n"));
        }
        if let Ok(proxy) = self.proxy() {
            out.push_str(&format!("\n  the proxy said:\n{}\n", proxy.said()));
        }
        out
    }
}
