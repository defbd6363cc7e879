//! The Dockerfiles and `compose.yaml`: what they copy and mount is there, what they run is accepted, nobody is root.
//! `make container-check` builds the image and runs it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::site::{Client, Origin, answer, binary, equal, eventually};
use super::{Outcome, Test};
use crate::fastapi::venv;
use crate::harness::proxy::{NO_STATE, free_port};

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("container::what_is_copied_is_there", copies),
        ("container::images_are_arguments_and_nobody_is_root", images),
        ("container::the_image_agrees_with_the_project", agrees),
        ("container::compose_confines_its_services", confines),
        ("container::compose_names_what_is_there", names),
        ("container::what_the_image_runs_runs", image_runs),
        ("container::what_compose_runs_runs", compose_runs),
    ]
}

/// Where the image has its state, for a volume.
const STATE: &str = "/var/lib/tidegate";

/// Where the image and `compose.yaml` have their config, and where it is here.
const CONFIG: (&str, &str) = ("/etc/tidegate/tidegate.toml", "config/container.toml");

fn copies() -> Outcome {
    for folder in ["", "examples/fastapi-blog"] {
        let root = root().join(folder);
        let ignore = read(&root.join(".dockerignore"))?;
        equal(
            "everything is ignored",
            ignore.lines().any(|l| l == "*"),
            true,
        )?;
        let kept: Vec<_> = ignore.lines().filter_map(|l| l.strip_prefix('!')).collect();
        for copied in Dockerfile::read(folder)?.copied() {
            if !root.join(&copied).exists() {
                return Err(format!("{folder}: {copied} is not there"));
            }
            if !kept.contains(&copied.as_str()) {
                return Err(format!("{folder}: {copied} is ignored"));
            }
        }
    }
    Ok(())
}

fn images() -> Outcome {
    for folder in ["", "examples/fastapi-blog"] {
        let file = Dockerfile::read(folder)?;
        for from in file.all("FROM") {
            let image = from.split(' ').next().unwrap_or_default();
            let name = image.strip_prefix("${").and_then(|n| n.strip_suffix('}'));
            let name = name.ok_or(format!("{folder}: FROM {from} is no argument"))?;
            let (_, tag) = file.arg(name)?.split_once(':').ok_or("no tag")?;
            equal("a tag of its own", tag == "latest", false)?;
        }
        for path in file.all("COPY").filter_map(|c| c.strip_prefix("--from=")) {
            let stage = path.split(' ').next().unwrap_or_default();
            let is = |from: &str| from.ends_with(&format!(" AS {stage}"));
            equal("a stage", file.all("FROM").any(is), true)?;
        }
        let user = file.last("USER")?;
        let (uid, gid) = user.split_once(':').ok_or("no group")?;
        for id in [uid, gid] {
            let id: u32 = id.parse().map_err(|_| format!("{user} is no number"))?;
            equal("root", id == 0, false)?;
        }
        equal("signal", file.last("STOPSIGNAL")?, "SIGTERM")?;
    }
    Ok(())
}

fn agrees() -> Outcome {
    let file = Dockerfile::read("")?;
    let toolchain: toml::Table =
        toml::from_str(&read(&root().join("rust-toolchain.toml"))?).map_err(|e| e.to_string())?;
    let channel = toolchain["toolchain"]["channel"]
        .as_str()
        .unwrap_or_default();
    let builder = file.arg("RUST_IMAGE")?;
    if !builder.contains(&format!(":{channel}-")) {
        return Err(format!("{builder} is not the {channel} of the toolchain"));
    }
    let label = |name: &str, value: &str| {
        let line = format!("org.opencontainers.image.{name}=\"{value}\"");
        match file.last("LABEL")?.contains(&line) {
            true => Ok(()),
            false => Err(format!("no {line}")),
        }
    };
    label("version", env!("CARGO_PKG_VERSION"))?;
    label("description", env!("CARGO_PKG_DESCRIPTION"))?;
    label("licenses", env!("CARGO_PKG_LICENSE"))?;
    let copied = format!("{} {}", CONFIG.1, CONFIG.0);
    equal("its config", file.all("COPY").any(|c| c == copied), true)?;
    let user = file.last("USER")?.replace(':', " -g ");
    let made = format!("install -d -m 700 -o {user} {STATE}");
    equal("its state", file.all("RUN").any(|run| run == made), true)
}

fn confines() -> Outcome {
    let compose = compose()?;
    for (name, service) in services(&compose)? {
        equal("read-only root", &service["read_only"], &true.into())?;
        equal("capabilities", &service["cap_drop"], &vec!["ALL"].into())?;
        let options = vec!["no-new-privileges:true"].into();
        equal("privileges", &service["security_opt"], &options)?;
        equal("restart", &service["restart"], &"unless-stopped".into())?;
        let healthy = service["healthcheck"]["test"].is_array();
        equal(&format!("{name} has a health check"), healthy, true)?;
        for none in ["privileged", "cap_add", "network_mode", "pid"] {
            equal(none, service.get(none).is_none(), true)?;
        }
        // Our own images say so themselves.
        let user = service.get("user").and_then(Value::as_str);
        let says = user.is_some_and(|user| !user.starts_with("0") && !user.starts_with("root"));
        equal("another than root", says, service.get("build").is_none())?;
    }
    let tidegate = &compose["services"]["tidegate"];
    let grace = tidegate["stop_grace_period"].as_str().unwrap_or_default();
    let grace = tidegate::config::units::duration(grace).map_err(|e| format!("{e:?}"))?;
    let drain = tidegate::config::options::Listen::TABLE.option("drain");
    let drain = drain.ok_or("no option")?.default::<std::time::Duration>();
    equal("time to drain", grace > drain, true)
}

fn names() -> Outcome {
    let compose = compose()?;
    let tidegate = &compose["services"]["tidegate"];
    for (name, service) in services(&compose)? {
        if service.get("build").is_none() {
            let image = text(&service["image"])?;
            equal(
                "a version",
                image.split_once(':').is_some_and(|(_, v)| v != "latest"),
                true,
            )?;
            continue;
        }
        let context = text(&service["build"])?;
        if !root().join(context).join("Dockerfile").exists() {
            return Err(format!("{name}: no Dockerfile in {context}"));
        }
    }
    let config = format!("./{}:{}:ro", CONFIG.1, CONFIG.0);
    let volumes = vec![config, format!("state:{STATE}")];
    equal("volumes", &tidegate["volumes"], &volumes.into())?;
    equal("a volume", compose["volumes"].get("state").is_some(), true)?;

    let exposed = Dockerfile::read("")?.last("EXPOSE")?.to_owned();
    let ports = vec![format!("127.0.0.1:{exposed}:{exposed}")].into();
    equal("ports", &tidegate["ports"], &ports)?;

    // The app by its service's name, at the port where it listens.
    let origin = text(&tidegate["environment"]["ORIGIN"])?;
    let origin = origin
        .strip_prefix("http://")
        .and_then(|o| o.split_once(':'));
    let (name, port) = origin.ok_or("no http://NAME:PORT")?;
    let app = &compose["services"][name];
    let file = Dockerfile::read(text(&app["build"])?)?;
    equal("the app's port", file.last("EXPOSE")?, port)?;
    let command = exec(file.last("CMD")?)?;
    let listens = command.windows(2).any(|two| two == ["--port", port]);
    equal("the app's own port", listens, true)?;
    let waits = &tidegate["depends_on"][name]["condition"];
    equal("waits for it", waits, &"service_healthy".into())
}

fn image_runs() -> Outcome {
    let file = Dockerfile::read("")?;
    let check = file.last("HEALTHCHECK")?;
    let (_, check) = check.split_once("CMD ").ok_or("no CMD")?;
    equal("entry", exec(file.last("ENTRYPOINT")?)?, itself())?;
    runs(&exec(file.last("CMD")?)?, &exec(check)?)
}

fn compose_runs() -> Outcome {
    let compose = compose()?;
    let service = &compose["services"]["tidegate"];
    let check = words(&service["healthcheck"]["test"])?;
    equal("form", check.first().map(String::as_str), Some("CMD"))?;
    runs(&words(&service["command"])?, &check[1..])
}

/// Runs the very command in front of an origin, beside what only a test has to say: ports of its own. Then asks the very
/// health check, for a page, and for the end.
fn runs(command: &[String], check: &[String]) -> Outcome {
    let origin = Origin::start(|_, conn| answer(conn, 200, "", b"page"))?;
    let (listen, admin) = (free_port(), free_port());
    let here = |args: &[String]| -> Vec<String> {
        let file = root().join(CONFIG.1).display().to_string();
        args.iter()
            .map(|arg| arg.replace(CONFIG.0, &file))
            .collect()
    };
    let run = |args: &[String]| {
        let mut run = Command::new(binary());
        run.args(args)
            .env("ORIGIN", format!("http://{}", origin.address))
            .env(NO_STATE.0, NO_STATE.1)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        run
    };
    let ends = |args: &[String]| {
        let output = run(args).output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok::<_, String>((output.status.code(), said))
    };
    let file = here(&[CONFIG.0.to_owned()]).concat();
    let check_config = ["check", "-c", &file].map(str::to_owned);
    equal(
        "tidegate check",
        ends(&check_config)?,
        (Some(0), String::new()),
    )?;

    let ports = [
        "--listen",
        &listen.to_string(),
        "--admin",
        &admin.to_string(),
    ]
    .map(str::to_owned);
    let mut process = Running(
        run(&[&here(command)[..], &ports].concat())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?,
    );
    equal("its check", &check[..1], &itself()[..])?;
    let check = [&here(&check[1..])[..], &ports[2..]].concat();
    eventually("it is well", || match ends(&check)? {
        (Some(0), _) => Ok(Some(())),
        (Some(1), _) => Ok(None),
        (code, said) => Err(format!("{check:?}: {code:?} {said}")),
    })?;
    Client::connect(listen)?.get("/", "")?.is(200)?;
    let term = Command::new("kill")
        .arg(process.0.id().to_string())
        .status();
    equal("kill", term.map_err(|e| e.to_string())?.success(), true)?;
    let ended = eventually("it ends", || {
        process.0.try_wait().map_err(|e| e.to_string())
    })?;
    equal("exit code", ended.code(), Some(0))
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Its instructions, in order, continued lines joined.
struct Dockerfile(Vec<(String, String)>);

impl Dockerfile {
    /// The one in a folder of the project.
    fn read(folder: &str) -> Result<Dockerfile, String> {
        let text = read(&root().join(folder).join("Dockerfile"))?;
        let lines = text.lines().map(str::trim);
        let lines: Vec<_> = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| match line.strip_suffix('\\') {
                Some(continued) => continued.to_owned(),
                None => format!("{line}\n"),
            })
            .collect();
        let instruction = |line: &str| {
            let (word, rest) = line.split_once(' ')?;
            Some((word.to_owned(), rest.trim().to_owned()))
        };
        Ok(Dockerfile(
            lines.concat().lines().filter_map(instruction).collect(),
        ))
    }

    fn all(&self, word: &str) -> impl Iterator<Item = &str> {
        let of = move |(held, _): &&(String, String)| held == word;
        self.0.iter().filter(of).map(|(_, rest)| rest.as_str())
    }

    /// The one that holds.
    fn last(&self, word: &str) -> Result<&str, String> {
        self.all(word).last().ok_or(format!("no {word}"))
    }

    fn arg(&self, name: &str) -> Result<&str, String> {
        let of = |arg: &&str| arg.starts_with(&format!("{name}="));
        let arg = self.all("ARG").find(of).ok_or(format!("no ARG {name}="))?;
        Ok(&arg[name.len() + 1..])
    }

    /// What is copied from the project, not from another stage.
    fn copied(&self) -> Vec<String> {
        let mut copied = Vec::new();
        for copy in self.all("COPY").filter(|copy| !copy.starts_with("--from=")) {
            let mut paths: Vec<_> = copy.split_whitespace().map(str::to_owned).collect();
            paths.pop();
            copied.append(&mut paths);
        }
        copied
    }
}

/// `compose.yaml`, by the Python that the end-to-end tests have: YAML is nothing to read by hand.
fn compose() -> Result<Value, String> {
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
    let python = venv().join("bin/python");
    let file = fs::File::open(root().join("compose.yaml")).map_err(|e| e.to_string())?;
    let output = Command::new(&python)
        .args(["-c", script])
        .stdin(file)
        .output()
        .map_err(|e| format!("{}: {e}: `make venv` prepares it", python.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).map_err(|e| format!("compose.yaml: {e}\n{said}"))
}

fn services(compose: &Value) -> Result<BTreeMap<String, Value>, String> {
    let services = compose["services"].as_object().ok_or("no services")?;
    equal("how many", services.len(), 3)?;
    Ok(services.clone().into_iter().collect())
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or(format!("{value} is no text"))
}

fn words(value: &Value) -> Result<Vec<String>, String> {
    serde_json::from_value(value.clone()).map_err(|e| format!("{value}: {e}"))
}

/// The exec form of an instruction.
fn exec(text: &str) -> Result<Vec<String>, String> {
    serde_json::from_str(text).map_err(|e| format!("{text}: {e}"))
}

/// The command without arguments.
fn itself() -> Vec<String> {
    vec!["tidegate".to_owned()]
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}
