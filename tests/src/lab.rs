//! A site in a folder of its own, through the same command line that people use.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::load::Load;

/// A site that is taken down, with everything it left, when the test ends.
pub struct Lab {
    folder: tempfile::TempDir,
    file: PathBuf,
}

/// A page as a visitor got it.
#[derive(Debug)]
pub struct Answer {
    /// The status code; 0 if there was no answer.
    pub status: u16,
    /// The header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The first header field of a name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The site file of an example, such as `1-single/site.toml`.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name).canonicalize().unwrap()
}

/// A program that was built together with this test.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().map(|folder| folder.join(name)).find(|path| path.is_file());
    path.unwrap_or_else(|| panic!("{name} is not built; run `make test`"))
}

/// Waits until `look` finds something, and says what it was if it never does.
pub fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Lab {
    /// Brings the site of a file up, and fails with all that was printed if that fails.
    pub fn up(file: &Path) -> Self {
        let lab = Self::new(file);
        let output = lab.run(&["up", lab.file.to_str().unwrap()]);
        assert!(output.contains(" stands"), "no card at the end:\n{output}");
        lab
    }

    /// A site that is not up yet.
    pub fn new(file: &Path) -> Self {
        // Short, for the paths of sockets in it are bounded.
        let folder = tempfile::Builder::new().prefix("mainstay-test-").tempdir_in("/tmp").unwrap();
        Self { folder, file: file.to_owned() }
    }

    /// Copies the site file's folder into the lab's own, so that a test may change it, and uses that copy.
    pub fn with_own_copy(file: &Path) -> Self {
        let mut lab = Self::new(file);
        let copy = lab.folder.path().join("site");
        let status = Command::new("cp").arg("-a").arg(file.parent().unwrap()).arg(&copy).status().unwrap();
        assert!(status.success());
        lab.file = copy.join(file.file_name().unwrap());
        lab
    }

    /// Copies the site file alone, so that a test may change it; its apps' code bases stay where they are.
    pub fn with_own_file(file: &Path) -> Self {
        let mut lab = Self::new(file);
        let text = std::fs::read_to_string(file).unwrap();
        let folder = file.parent().unwrap().canonicalize().unwrap();
        let text = text.replace("code = \"", &format!("code = \"{}/", folder.display()));
        lab.file = lab.folder.path().join("site.toml");
        std::fs::write(&lab.file, text).unwrap();
        lab
    }

    /// Changes the site file.
    pub fn edit(&self, change: impl FnOnce(String) -> String) {
        let text = std::fs::read_to_string(&self.file).unwrap();
        std::fs::write(&self.file, change(text)).unwrap();
    }

    /// What the first edge says of a server in its group `web`.
    pub fn upstream(&self, server: &str) -> Value {
        let status = self.status();
        let groups =
            status["hosts"]["edge1"]["server"]["edge"]["groups"].as_array().cloned().unwrap_or_default();
        let web = groups.into_iter().find(|group| group["name"] == "web").unwrap_or(Value::Null);
        let upstreams = web["upstreams"].as_array().cloned().unwrap_or_default();
        upstreams.into_iter().find(|upstream| upstream["name"] == server).unwrap_or(Value::Null)
    }

    /// Another version of the binary, which differs in its digest only.
    pub fn other_binary(&self) -> PathBuf {
        let other = self.folder.path().join("another-mainstay");
        let mut binary = std::fs::read(built("mainstay")).unwrap();
        binary.extend_from_slice(b"another version");
        std::fs::write(&other, binary).unwrap();
        assert!(Command::new("chmod").arg("755").arg(&other).status().unwrap().success());
        other
    }

    /// The site file in use.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The state folder.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A `mainstay` command of this lab.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(&built("mainstay"), args)
    }

    /// The same with another binary.
    pub fn command_of(&self, binary: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command.args(args).env("MAINSTAY_STATE", self.state()).stdin(Stdio::null());
        command
    }

    /// Runs a `mainstay` command that must succeed, and returns what it printed.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        printed(args, &output)
    }

    /// Brings the site up (again) and returns what was printed.
    pub fn up_again(&self) -> String {
        self.run(&["up", self.file.to_str().unwrap()])
    }

    /// Runs a command on a host and returns what it printed; it must succeed.
    pub fn on(&self, host: &str, command: &[&str]) -> String {
        self.run(&[&["exec", host, "--"], command].concat())
    }

    /// `status --json`.
    pub fn status(&self) -> Value {
        let output = self.command(&["status", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// What the status says of a role.
    pub fn role(&self, server: &str, role: &str) -> Value {
        let status = self.status();
        let roles = status["hosts"][server]["server"]["roles"].as_array().cloned().unwrap_or_default();
        roles.into_iter().find(|known| known["name"] == role).unwrap_or(Value::Null)
    }

    /// A role's process, as numbered on its server.
    pub fn pid(&self, server: &str, role: &str) -> i64 {
        if role == "agent" {
            return self.status()["hosts"][server]["server"]["agent"]["pid"]
                .as_i64()
                .expect("an agent that answers");
        }
        self.role(server, role)["pid"].as_i64().unwrap_or_else(|| panic!("{role} runs on {server}"))
    }

    /// Asks for a page from the visitor's host, with further arguments of curl.
    pub fn visit(&self, url: &str, args: &[&str]) -> Answer {
        let command =
            [&["exec", "client", "--", "curl", "-s", "-i", "--max-time", "20"], args, &[url]].concat();
        parse(&self.command(&command).output().unwrap())
    }

    /// Asks for a page from this machine, as a browser would.
    pub fn browse(&self, url: &str, args: &[&str]) -> Answer {
        parse(
            &Command::new("curl")
                .args(["-s", "-i", "--max-time", "20"])
                .args(args)
                .arg(url)
                .output()
                .unwrap(),
        )
    }

    /// The address of the website for a browser on this machine.
    pub fn url(&self) -> String {
        self.status()["url"].as_str().expect("a site that is up").to_owned()
    }

    /// Copies a file to where a host finds it, and tells that path. Hosts have a /tmp of their own, and builds may lie in the
    /// real one.
    pub fn carry(&self, host: &str, file: &Path) -> PathBuf {
        let site =
            std::fs::read_dir(self.state()).unwrap().flatten().next().expect("a site that is up").path();
        let name = file.file_name().unwrap();
        std::fs::copy(file, site.join("hosts").join(host).join("run").join(name)).unwrap();
        Path::new("/run/mainstay").join(name)
    }

    /// Begins to ask for a page at a steady rate, each time over a new connection.
    pub fn load(&self, url: &str, per_second: u32) -> Load {
        let program = self.carry("client", &built("mainstay-visitor"));
        Load::begin(self, &program, url, per_second)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Shown only when the test fails: what the site said.
        if std::thread::panicking() {
            let logs = self.command(&["logs"]).output().map(|output| output.stdout).unwrap_or_default();
            let text = String::from_utf8_lossy(&logs);
            let lines: Vec<&str> = text.lines().collect();
            println!("the site's last log lines:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        if self.state().exists() {
            let done = self.command(&["down", "--purge"]).output();
            if !done.as_ref().is_ok_and(|output| output.status.success()) {
                println!("the lab could not be taken down: {done:?}");
            }
        }
    }
}

fn printed(args: &[&str], output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "mainstay {} ended with {}\n{text}{errors}",
        args.join(" "),
        output.status
    );
    text
}

/// The last response in what curl printed; redirects and 100s come before it.
fn parse(output: &Output) -> Answer {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut rest = text.as_str();
    let mut answer = Answer { status: 0, headers: Vec::new(), body: String::new() };
    while rest.starts_with("HTTP/") {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
        let mut lines = head.lines();
        answer.status =
            lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_default();
        answer.headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        rest = body;
    }
    rest.clone_into(&mut answer.body);
    answer
}
