//! The origin that stands behind every server in turn: reads strictly, remembers, and answers as the script on stage says.
//! Unlike the tests' own it is never at a loss: where no answer is left it gives the last one that fits.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::harness::meet::Meeting;
use super::harness::script::{Act, Answer, Check, Respond, Step};
use super::harness::speak::{chunk, respond_bytes};
use super::harness::text::{Expr, Scope, matches};
use super::judge::{Kind, proper};
use super::strict::{self, Reading, Request};
use super::support::sys;
use super::{CLOSING, from_stage};

pub struct Origin {
    pub port: u16,
    scene: Arc<Mutex<Arc<Scene>>>,
}

/// One script, as far as an origin plays in it.
#[derive(Default)]
pub struct Scene {
    answers: Vec<Answer>,
    pub meeting: Meeting,
    state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    /// How often each answer was given.
    given: Vec<usize>,
    /// (method, target) of each request.
    pub seen: Vec<(String, String)>,
    /// What was wrong with requests, and with how they came.
    pub faults: Vec<(Kind, String)>,
    /// Bodies that were answered.
    pub told: Vec<Vec<u8>>,
    /// Targets whose last answer was written by hand, which is to say broken.
    pub broken: Vec<String>,
}

impl Scene {
    pub fn new(answers: Vec<Answer>) -> Scene {
        let state = State {
            given: vec![0; answers.len()],
            ..State::default()
        };
        Scene {
            answers,
            meeting: Meeting::default(),
            state: Mutex::new(state),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Origin {
    pub fn start() -> Result<Origin, String> {
        let told = |error: std::io::Error| format!("origin: {error}");
        let listener = TcpListener::bind("127.0.0.1:0").map_err(told)?;
        let port = listener.local_addr().map_err(told)?.port();
        let scene = Arc::new(Mutex::new(Arc::new(Scene::default())));
        let shared = Arc::clone(&scene);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let scene = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &scene).unwrap_or_default());
            }
        });
        Ok(Origin { port, scene })
    }

    /// From now on every request is answered by this script.
    pub fn play(&self, scene: &Arc<Scene>) {
        *self.scene.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(scene);
    }
}

fn serve(mut stream: TcpStream, stage: &Mutex<Arc<Scene>>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut held, mut buffer) = (Vec::new(), [0; 16_384]);
    loop {
        let reading = strict::request(&from_stage(&held));
        let scene = Arc::clone(&stage.lock().unwrap_or_else(PoisonError::into_inner));
        let (request, used) = match reading {
            Reading::Whole(request, used) => (request, used),
            Reading::Broken(why) => {
                scene.state().faults.push((Kind::Forwards, why));
                return None;
            }
            Reading::Partial => match stream.read(&mut buffer).ok()? {
                0 => return None,
                count => {
                    held.extend_from_slice(&buffer[..count]);
                    continue;
                }
            },
        };
        held.drain(..used);
        let steps = scene.asked(&request);
        for step in steps {
            if !scene.act(&mut stream, &mut held, &step.act, &request)? {
                return None;
            }
        }
        let last = steps.last().map(|step| &step.act);
        if matches!(last, Some(Act::Send(_))) && !scene.ends(&mut stream, &mut held)? {
            return None;
        }
        if steps.is_empty() {
            let plain = "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\n";
            let body = if request.method == "HEAD" { "" } else { "ok" };
            stream.write_all(plain.as_bytes()).ok()?;
            stream.write_all(body.as_bytes()).ok()?;
        }
    }
}

impl Scene {
    /// Remembers a request, and finds what it is answered with: nothing for the plain page.
    fn asked(&self, request: &Request) -> &[Step] {
        let mut state = self.state();
        let seen = (request.method.clone(), request.target.clone());
        state.seen.push(seen);
        let fits = |answer: &Answer| {
            answer.method.as_ref().is_none_or(|m| *m == request.method)
                && answer.target.as_ref().is_none_or(|t| *t == request.target)
        };
        let left = |index: usize, answer: &Answer| {
            answer.times.is_none_or(|times| state.given[index] < times)
        };
        let candidates = || self.answers.iter().enumerate().filter(|(_, a)| fits(a));
        let found = candidates()
            .find(|(index, answer)| left(*index, answer) && meant(answer, request))
            .or_else(|| candidates().find(|(index, answer)| left(*index, answer)))
            .or_else(|| candidates().rfind(|(_, answer)| meant(answer, request)))
            .or_else(|| candidates().next_back());
        let unwanted = found.map_or_else(Vec::new, |(_, answer)| unwanted(answer, request));
        if let Err(why) = proper(request) {
            state.faults.push((Kind::Forwards, why));
        } else if !unwanted.is_empty() {
            state.faults.push((Kind::Forwards, unwanted.join(", ")));
        }
        let Some((index, answer)) = found else {
            return &[];
        };
        state.given[index] += 1;
        state.broken.retain(|target| *target != request.target);
        if answer.steps.iter().any(|s| matches!(s.act, Act::Send(_))) {
            state.broken.push(request.target.clone());
        }
        // A page that says nothing would be one to store for some, and hide from us what is asked next.
        if answer.times.is_none() && answer.steps.iter().all(says_nothing) {
            &[]
        } else {
            &answer.steps
        }
    }

    /// One step of an answer; whether the connection goes on. None where it broke.
    fn act(
        &self,
        stream: &mut TcpStream,
        held: &mut Vec<u8>,
        act: &Act,
        request: &Request,
    ) -> Option<bool> {
        match act {
            Act::Respond(respond) => {
                let bytes = scoped(request, |scope| self.respond(respond, request, scope)).ok()?;
                stream.write_all(&bytes).ok()?;
                return Some(!respond.message.until_close);
            }
            Act::Send(expr) => stream.write_all(&rendered(expr, request)?).ok()?,
            Act::Chunk(expr) => stream.write_all(&chunk(&rendered(expr, request)?)).ok()?,
            Act::LastChunk => stream.write_all(b"0\r\n\r\n").ok()?,
            Act::Close => return Some(false),
            Act::Reset => {
                sys::reset(stream.try_clone().ok()?);
                return Some(false);
            }
            Act::ExpectEnd { .. } => return self.ends(stream, held),
            Act::Wait(name) => drop(self.meeting.wait(name)),
            Act::Signal(name) => self.meeting.signal(name),
            Act::Pause(time) => thread::sleep(*time),
            _ => {}
        }
        Some(true)
    }

    /// Waits for the end that a broken answer should bring, and makes it where it doesn't come; whether there was a
    /// request instead.
    fn ends(&self, stream: &mut TcpStream, held: &mut Vec<u8>) -> Option<bool> {
        let mut buffer = [0; 4096];
        stream.set_read_timeout(Some(CLOSING)).ok()?;
        let count = stream.read(&mut buffer).unwrap_or(0);
        stream.set_read_timeout(None).ok()?;
        if count > 0 {
            let why = "the connection of a broken answer, used again".to_owned();
            self.state().faults.push((Kind::Open, why));
            held.extend_from_slice(&buffer[..count]);
        }
        Some(count > 0)
    }

    fn respond(&self, what: &Respond, to: &Request, scope: &Scope) -> Result<Vec<u8>, String> {
        if let Some(body) = &what.message.body {
            self.state().told.push(body.render(scope)?);
        }
        respond_bytes(what, to.method == "HEAD", scope)
    }
}

/// Whether an answer is meant for just this request, by all that its script expects of one.
fn meant(answer: &Answer, request: &Request) -> bool {
    let fits = |check: &Check| match check {
        Check::Field(name, patterns) => {
            let values = request.all(name);
            values.len() == patterns.len()
                && patterns.iter().zip(&values).all(|(pattern, value)| {
                    scoped(request, |scope| matches(pattern, value, scope)).unwrap_or(false)
                })
        }
        Check::Absent(name) => request.all(name).is_empty(),
        Check::Body(expr) => {
            scoped(request, |scope| expr.render(scope)).is_ok_and(|body| body == request.body)
        }
        _ => true,
    };
    checks(answer).all(fits)
}

/// Fields that the script says must not come, and came.
fn unwanted<'a>(answer: &'a Answer, request: &Request) -> Vec<&'a str> {
    checks(answer)
        .filter_map(|check| match check {
            // Announced trailers that don't come harm nobody.
            Check::Absent(name) if name == "Trailer" => None,
            Check::Absent(name) if !request.all(name).is_empty() => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

fn checks(answer: &Answer) -> impl Iterator<Item = &Check> {
    answer.steps.iter().flat_map(|step| match &step.act {
        Act::Asked { checks, .. } => checks.as_slice(),
        _ => &[],
    })
}

fn says_nothing(step: &Step) -> bool {
    match &step.act {
        Act::Respond(respond) => {
            respond.message.fields.is_empty() && respond.message.body.is_none()
        }
        Act::Asked { .. } | Act::Hang => true,
        _ => false,
    }
}

fn rendered(expr: &Expr, request: &Request) -> Option<Vec<u8>> {
    scoped(request, |scope| expr.render(scope)).ok()
}

/// With `{asked}` and `{asked Field}` for what the request was.
fn scoped<T>(request: &Request, call: impl FnOnce(&Scope) -> T) -> T {
    let names = |name: &str| {
        let field = match name.strip_prefix("asked")? {
            "" => format!("{} {}", request.method, request.target).into_bytes(),
            field => request.all(field.trim()).join(&b", "[..]),
        };
        Some(String::from_utf8_lossy(&field).into_owned())
    };
    call(&Scope {
        names: &names,
        advanced: Duration::ZERO,
        keep: &|_, _| {},
    })
}
