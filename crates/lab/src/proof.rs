//! The proof: what a visitor sees, looked at from outside.

mod edges;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mainstay_site::{Role, Site, paths};
use serde::Serialize;

use crate::enter::{living, output};
use crate::error::Error;
use crate::network::{Outside, entries, http_port};
use crate::state::{HostRecord, SiteState};
use crate::status;
use crate::{CLIENT, INTERNET};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What holds if it passed.
    pub promise: String,
    /// What was seen instead; absent if it passed.
    pub failure: Option<String>,
}

/// A host that was revived a moment ago may still be starting its resolver: what fails is looked at again until then.
const SETTLED_WITHIN: Duration = Duration::from_secs(6);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks at everything, until all is well or it has had its time.
///
/// # Errors
/// If a host that is needed for looking is down.
pub fn prove(site: &Site, state: &SiteState) -> Result<Vec<Check>, Error> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    loop {
        let checks = look(site, state)?;
        if checks.iter().all(|check| check.failure.is_none()) || Instant::now() >= deadline {
            return Ok(checks);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Looks at everything once. The order is that of a visit.
fn look(site: &Site, state: &SiteState) -> Result<Vec<Check>, Error> {
    let client = living(state, CLIENT)?;
    living(state, INTERNET)?;
    let proof = Proof { site, state, client };
    let mut checks = Vec::new();
    proof.names(&mut checks);
    proof.pages(&mut checks);
    proof.databases(&mut checks)?;
    proof.roles(&mut checks);
    Ok(checks)
}

struct Proof<'a> {
    site: &'a Site,
    state: &'a SiteState,
    client: HostRecord,
}

fn check(checks: &mut Vec<Check>, promise: impl Into<String>, result: Result<(), String>) {
    checks.push(Check { promise: promise.into(), failure: result.err() });
}

impl Proof<'_> {
    /// Runs a program in `client`.
    fn visitor(&self, program: &[&str]) -> Result<String, String> {
        let output = output(&self.client, program).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} ({}) {}", program.join(" "), output.status, errors.trim()))
    }

    fn names(&self, checks: &mut Vec<Check>) {
        if self.site.with_role(Role::Dns).next().is_none() {
            return;
        }
        let entries = entries(self.site);
        for host in self.site.hosts.iter().filter(|host| !host.wildcard) {
            let name = host.name.as_str();
            let promise = format!("{name} is resolved through the internet's resolver");
            check(checks, promise, self.leads(name, "ahostsv4", entries.iter().filter(|ip| ip.is_ipv4())));
            if self.has_ipv6() {
                let promise = format!("{name} is resolved to an IPv6 address as well");
                check(
                    checks,
                    promise,
                    self.leads(name, "ahostsv6", entries.iter().filter(|ip| ip.is_ipv6())),
                );
            }
        }
        for server in self.site.with_role(Role::Dns) {
            if let Some(address) = server.address6 {
                let result = self.ask(address.into(), "udp", self.site.domain.as_str()).and_then(|code| {
                    if code == 0 { Ok(()) } else { Err(format!("it answered with code {code}")) }
                });
                check(checks, format!("{} answers over IPv6 for {}", server.name, self.site.domain), result);
            }
            for (transport, promise) in [("udp", "answers over UDP"), ("tcp", "answers over TCP")] {
                let result =
                    self.ask(server.address.into(), transport, self.site.domain.as_str()).and_then(|code| {
                        if code == 0 { Ok(()) } else { Err(format!("it answered with code {code}")) }
                    });
                check(checks, format!("{} {promise} for {}", server.name, self.site.domain), result);
            }
            let result = self.ask(server.address.into(), "udp", "elsewhere.example").and_then(|code| {
                if code == 5 {
                    Ok(())
                } else {
                    Err(format!("asked for elsewhere.example it answered with code {code}, not REFUSED"))
                }
            });
            check(checks, format!("{} refuses to resolve other people's names", server.name), result);
        }
    }

    /// Whether visitors can enter over IPv6.
    fn has_ipv6(&self) -> bool {
        entries(self.site).iter().any(IpAddr::is_ipv6)
    }

    /// Looks a name up as programs do, in one of getent's databases.
    fn leads<'a>(
        &self,
        name: &str,
        database: &str,
        entries: impl Iterator<Item = &'a IpAddr>,
    ) -> Result<(), String> {
        let text = self.visitor(&["getent", database, name])?;
        let address = text.split_whitespace().next().unwrap_or("nothing");
        let entries: Vec<String> = entries.map(ToString::to_string).collect();
        if entries.iter().any(|entry| entry == address) {
            return Ok(());
        }
        Err(format!("{name} leads to {address}, not to {}", entries.join(" or ")))
    }

    /// Asks a name server for the SOA of a name from `client`, and returns the response code.
    fn ask(&self, server: IpAddr, transport: &str, name: &str) -> Result<u8, String> {
        let address = server.to_string();
        let text = self.visitor(&["python3", "-I", "-c", ASK, transport, &address, name])?;
        text.trim().parse().map_err(|_| format!("its answer makes no sense: {}", text.trim()))
    }

    fn pages(&self, checks: &mut Vec<Check>) {
        let port = http_port(self.site);
        for host in self.site.hosts.iter().filter(|host| !host.wildcard) {
            let url = if port == 80 {
                format!("http://{}/", host.name)
            } else {
                format!("http://{}:{port}/", host.name)
            };
            let format = "%{http_code} %header{x-served-by}";
            let get = |family| {
                let curl = ["curl", family, "-s", "-o", "/dev/null", "--max-time", "10", "-w", format, &url];
                self.visitor(&curl).and_then(|text| self.served_or_redirected(&text))
            };
            check(checks, format!("{url} is answered by one of the site's servers"), get("-4"));
            if self.has_ipv6() {
                check(checks, format!("{url} is answered over IPv6 as well"), get("-6"));
            }
        }
        self.through_edges(checks);
        for server in self.site.with_role(self.site.entry()) {
            let url = format!("http://{}:{port}/", server.address);
            let code = ["curl", "-s", "-o", "/dev/null", "--max-time", "5", "-w", "%{http_code}", "-H"];
            let strange = [&code[..], &["Host: elsewhere.example", &url]].concat();
            let result = self.visitor(&strange).and_then(|text| {
                if text == "421" {
                    Ok(())
                } else {
                    Err(format!("it answered {text} for another site's name, not 421"))
                }
            });
            check(checks, format!("{} refuses requests for other sites", server.name), result);
            let hidden = [
                "curl",
                "-s",
                "-o",
                "/dev/null",
                "--max-time",
                "5",
                "-w",
                "%{http_code}",
                "--path-as-is",
                "-H",
            ];
            let host = self
                .site
                .hosts
                .iter()
                .find(|host| !host.wildcard)
                .map_or("localhost", |host| host.name.as_str());
            let header = format!("Host: {host}");
            let path = format!("{url}../../../../etc/passwd");
            let result = self.visitor(&[&hidden[..], &[&header, &path]].concat()).and_then(|text| {
                if text.starts_with('4') {
                    Ok(())
                } else {
                    Err(format!("a path that leads out was answered {text}"))
                }
            });
            check(checks, format!("{} lets no path lead out of the public folder", server.name), result);
        }
    }

    fn served(&self, text: &str) -> Result<(), String> {
        let (code, server) = text.split_once(' ').unwrap_or((text, ""));
        let known = self.site.servers.iter().any(|known| known.name.as_str() == server);
        match code.as_bytes().first() {
            Some(b'2' | b'3') if known => Ok(()),
            Some(b'2' | b'3') => Err(format!("it was answered {code}, but by nobody of the site ({server})")),
            _ => Err(format!("it was answered {code}")),
        }
    }

    /// Writes a row with each app's account, reads it back, and takes it away again.
    fn databases(&self, checks: &mut Vec<Check>) -> Result<(), Error> {
        let inputs = mainstay_site::Inputs::default();
        for plan in self.site.plans(&inputs) {
            let host = living(self.state, plan.server.as_str())?;
            for app in &plan.apps {
                let Some(database) = &app.database else { continue };
                let secret = paths::secrets().join(&database.password_secret);
                let address = match &database.socket {
                    Some(socket) => format!("--socket={}", socket.display()),
                    None => format!("--host={}", database.host),
                };
                let (user, name) = (format!("--user={}", database.user), database.name.as_str());
                // With a port the client would take the network whatever else is said.
                let port = match &database.socket {
                    Some(_) => "--protocol=socket".to_owned(),
                    None => format!("--port={}", database.port),
                };
                let secret = secret.display().to_string();
                let program = [
                    "sh",
                    "-c",
                    WRITE_AND_READ,
                    "sh",
                    &secret,
                    "--no-defaults",
                    &address,
                    &port,
                    &user,
                    "--batch",
                    "--skip-column-names",
                    name,
                ];
                let result = match output(&host, &program) {
                    Ok(output) if String::from_utf8_lossy(&output.stdout).trim() == "stands" => Ok(()),
                    Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
                    Err(error) => Err(error.to_string()),
                };
                check(
                    checks,
                    format!("{} on {} writes a row and reads it back", app.name, plan.server),
                    result,
                );
            }
        }
        Ok(())
    }

    fn roles(&self, checks: &mut Vec<Check>) {
        let status = status::status(self.state);
        for (name, host) in &status.hosts {
            let Some(server) = &host.server else { continue };
            for role in &server.roles {
                let state = status::state_name(&role.state);
                let result =
                    if status::is_ready(&role.state) { Ok(()) } else { Err(format!("it is {state}")) };
                check(checks, format!("{} on {name} is ready", role.name), result);
            }
        }
        let outside = Outside::of(self.site);
        let result = self.visitor(&["ip", "-o", "route", "get", &outside.root.to_string()]).map(drop);
        check(checks, "the visitor reaches the internet", result);
    }
}

/// Asks for a SOA record and prints the response code: twelve bytes of header say all that is wanted.
const ASK: &str = r"
import socket, struct, sys
transport, address, name = sys.argv[1:]
labels = b''.join(bytes([len(part)]) + part.encode() for part in name.split('.')) + b'\0'
query = struct.pack('>6H', 4711, 0, 1, 0, 0, 0) + labels + struct.pack('>2H', 6, 1)
kind = socket.SOCK_DGRAM if transport == 'udp' else socket.SOCK_STREAM
with socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, kind) as s:
    s.settimeout(3)
    s.connect((address, 53))
    if transport == 'tcp':
        s.sendall(struct.pack('>H', len(query)) + query)
        s.recv(2, socket.MSG_WAITALL)
    else:
        s.send(query)
    print(s.recv(4096)[3] & 15)
";

/// A password goes to the client by its environment, never as an argument, which everyone can see.
const WRITE_AND_READ: &str = r#"
MYSQL_PWD=$(cat "$1"); export MYSQL_PWD; shift
mariadb "$@" -e "CREATE TABLE IF NOT EXISTS mainstay_proof (word VARCHAR(16)) ENGINE=InnoDB;
INSERT INTO mainstay_proof VALUES ('stands'); SELECT word FROM mainstay_proof LIMIT 1; DROP TABLE mainstay_proof"
"#;
