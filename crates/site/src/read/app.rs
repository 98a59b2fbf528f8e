//! `[app.NAME]`: the code bases and what runs them.

use std::collections::BTreeMap;

use crate::model::{App, AppKind, SecretSource};
use crate::plan::{CommandListen, PythonInterface};
use crate::section::{At, Section};
use crate::{AppName, ByteSize, DomainName, NameError};

#[derive(Clone, Copy)]
enum Kind {
    Php,
    Python,
    Command,
}

const KINDS: [(&str, Kind); 3] = [("php", Kind::Php), ("python", Kind::Python), ("command", Kind::Command)];

pub(super) fn read(root: &Section<'_>, domain: Option<&At<DomainName>>) -> Vec<At<App>> {
    let named = root.named("app");
    named.into_iter().filter_map(|(name, section)| read_app(&name, section, domain)).collect()
}

fn read_app(name: &At<String>, section: Section<'_>, domain: Option<&At<DomainName>>) -> Option<At<App>> {
    let problems = section.problems;
    let parsed = match name.value.parse::<AppName>() {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            let message = format!("`{}` is not an app's name: {error}", name.value);
            match (&error, shorter(&name.value)) {
                (NameError::TooLong { .. }, Some(shorter)) => problems.help(
                    &name.at,
                    message,
                    format!(
                        "its user would be `mainstay-app-{}`, and a user's name has at most 32 bytes: call it `{shorter}`, for example",
                        name.value
                    ),
                ),
                _ => problems.note(&name.at, message),
            }
            None
        }
    };
    let code = section.string("code");
    if code.is_none() && !section.has("code") {
        section.missing("code", "name the folder of its code base:  code = \"app\"");
    }
    let kind = section.choice("kind", &KINDS);
    if kind.is_none() && !section.has("kind") {
        section.missing("kind", "say what runs it:  kind = \"php\", \"python\" or \"command\"");
    }
    let kind = kind.and_then(|kind| match kind.value {
        Kind::Php => Some(read_php(&section)),
        Kind::Python => read_python(&section),
        Kind::Command => read_command(&section),
    });
    let public = inside(&section, "public");
    let public = match (&public, &kind) {
        (None, Some(AppKind::Php { .. })) => Some("public".to_owned()),
        _ => public,
    };
    let hosts = section.strings("hosts").map(|hosts| {
        hosts.value.iter().filter_map(|host| super::read_host(host, domain, problems)).collect()
    });
    let path = super::read_path(&section, "path").unwrap_or_else(|| "/".to_owned());
    let schema = inside(&section, "schema");
    let writable = section.strings("writable").map_or_else(Vec::new, |folders| {
        folders.value.iter().filter_map(|folder| inside_text(&section, "writable", folder)).collect()
    });
    let env = read_env(&section);
    let secrets = read_secrets(&section);
    for variable in secrets.keys().filter(|variable| env.contains_key(*variable)) {
        problems.note(
            &section.at,
            format!("`{variable}` stands in both `env` and `secrets` of {}", section.title),
        );
    }
    let readiness = section.string("readiness");
    if let Some(path) = readiness.as_ref().filter(|path| !path.value.starts_with('/')) {
        problems.help(
            &path.at,
            format!("`{}` is not a path", path.value),
            "write it as  readiness = \"/health\"",
        );
    }
    let app = (parsed, code, kind);
    let rest = App {
        name: app.0?,
        code: app.1?.value.into(),
        follow_links: section.boolean("follow_links").unwrap_or(false),
        public,
        hosts: hosts.unwrap_or_default(),
        path,
        kind: app.2?,
        schema,
        writable,
        env,
        secrets,
        workers: section.integer("workers", 1..=10_000).map(|workers| workers.value as u32),
        memory: section.parsed::<ByteSize>("memory", "a size").map(|memory| memory.value),
        processes: section.integer("processes", 8..=100_000).map_or(512, |count| count.value as u32),
        readiness: readiness.map(|path| path.value),
        database: section.boolean("database").unwrap_or(true),
    };
    section.finish();
    Some(At { value: rest, at: name.at.clone() })
}

/// The beginning of a name that is too long, cut between two words where there are some.
fn shorter(name: &str) -> Option<AppName> {
    let most: AppName = (1..name.len()).rev().find_map(|end| name.get(..end)?.parse().ok())?;
    let cut_inside_a_word = name.as_bytes().get(most.as_str().len()) != Some(&b'-');
    let words = most.as_str().rsplit_once('-').filter(|_| cut_inside_a_word);
    words.and_then(|(front, _)| front.parse().ok()).or(Some(most))
}

fn read_php(section: &Section<'_>) -> AppKind {
    let front_controller = section.string("front_controller");
    if let Some(script) = &front_controller {
        let plain = script.value.starts_with('/')
            && script.value.strip_suffix(".php").is_some()
            && !script.value.contains("..");
        if !plain {
            section.problems.help(
                &script.at,
                format!("`{}` is not a script's path", script.value),
                "write it as  front_controller = \"/index.php\", seen from the public folder",
            );
        }
    }
    let settings = section.map("php").into_iter().map(|(name, value)| (name, value.value)).collect();
    AppKind::Php { front_controller: front_controller.map(|script| script.value), settings }
}

fn read_python(section: &Section<'_>) -> Option<AppKind> {
    let interfaces = [("wsgi", PythonInterface::Wsgi), ("asgi", PythonInterface::Asgi)];
    let interface =
        section.choice("interface", &interfaces).map_or(PythonInterface::Wsgi, |found| found.value);
    let requirements = inside(section, "requirements").unwrap_or_else(|| "requirements.txt".to_owned());
    let Some(entry) = section.string("entry") else {
        if !section.has("entry") {
            section.missing("entry", "name the module and the object in it:  entry = \"app:application\"");
        }
        return None;
    };
    let plain =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "._".contains(c));
    if !entry.value.split_once(':').is_some_and(|(module, object)| plain(module) && plain(object)) {
        let message = format!("`{}` does not name a Python object", entry.value);
        section.problems.help(
            &entry.at,
            message,
            "write it as module:object, such as  entry = \"app:application\"",
        );
    }
    Some(AppKind::Python { interface, entry: entry.value, requirements })
}

fn read_command(section: &Section<'_>) -> Option<AppKind> {
    let listens = [("socket", CommandListen::Socket), ("port", CommandListen::Port)];
    let listen = section.choice("listen", &listens).map_or(CommandListen::Port, |found| found.value);
    let Some(command) = section.strings("command") else {
        if !section.has("command") {
            section.missing("command", "say what to start:  command = [\"./server\", \"--flag\"]");
        }
        return None;
    };
    if command.value.is_empty() {
        section.problems.note(&command.at, format!("`command` in {} is empty", section.title));
    }
    Some(AppKind::Command { command: command.value.into_iter().map(|part| part.value).collect(), listen })
}

/// A folder or file inside the code base: relative, without `..`.
fn inside(section: &Section<'_>, key: &'static str) -> Option<String> {
    let text = section.string(key)?;
    inside_text(section, key, &text)
}

fn inside_text(section: &Section<'_>, key: &str, text: &At<String>) -> Option<String> {
    let trimmed = text.value.trim_end_matches('/');
    let bad = trimmed.is_empty()
        || trimmed.starts_with('/')
        || trimmed.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    if bad {
        let message = format!("`{}` in `{key}` is not a path inside the code base", text.value);
        section.problems.help(&text.at, message, "write it relative to `code`, such as \"public/uploads\"");
        return None;
    }
    Some(trimmed.to_owned())
}

fn variable_is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn check_variable(section: &Section<'_>, name: &str, value: &At<String>) {
    if !variable_is_plain(name) {
        section.problems.help(
            &value.at,
            format!("`{name}` is not the name of an environment variable"),
            "use letters, digits and _, not beginning with a digit",
        );
    }
    if name.starts_with("DATABASE_") || name.starts_with("MAINSTAY_") {
        section.problems.help(
            &value.at,
            format!("`{name}` is set by Mainstay itself"),
            "leave it out, or choose another name for your own",
        );
    }
}

fn read_env(section: &Section<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (name, value) in section.map("env") {
        check_variable(section, &name, &value);
        super::secret::refuse(section.problems, &name, &value, "env");
        env.insert(name, value.value);
    }
    env
}

fn read_secrets(section: &Section<'_>) -> BTreeMap<String, SecretSource> {
    let mut secrets = BTreeMap::new();
    for (name, value) in section.map("secrets") {
        check_variable(section, &name, &value);
        let source = match value.value.strip_prefix("file:") {
            Some(path) if !path.is_empty() => SecretSource::File(path.into()),
            _ if value.value.parse::<AppName>().is_ok() && value.value.len() <= 32 => {
                SecretSource::Generated(value.value.clone())
            }
            _ => {
                section.problems.help(
                    &value.at,
                    format!("a secret does not belong into the site file (`{name}` in `secrets`)"),
                    "write  file:PATH  to read it from a file of mode 0600, or a short name (a-z, 0-9, -) to have one made",
                );
                continue;
            }
        };
        secrets.insert(name, source);
    }
    secrets
}
