//! From a file and the environment to a checked [`Config`].

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::{Config, ConfigError, Place, Problem};

/// What environment variables of settings begin with.
const PREFIX: &str = "MILLRACE_";

/// The largest settings file; a larger one is surely another file.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Config {
    /// Reads the file, if there is one, applies the variables of `env` that begin with `MILLRACE_`, and checks
    /// the whole. (`std::env::vars` panics on text that is not UTF-8; `vars_os` with a filter does not.)
    ///
    /// # Errors
    /// All unknown keys and variables, or the first value of a wrong type, or all rules that are broken: each
    /// with its line or variable.
    pub fn load(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let mut env: Vec<_> = env.filter(|(name, _)| name.starts_with(PREFIX)).collect();
        env.sort();
        let mut places = BTreeMap::new();
        let config = match path {
            Some(path) => from_file(path, &mut places)?,
            None => Config::default(),
        };
        let config = override_by(config, &env, &mut places)?;
        config.check_rules(|key| places.get(key).cloned().unwrap_or_else(|| Place::Key(key.into())))?;
        Ok(config)
    }
}

/// Keys by section, with the defaults as values: all there is to know about which keys exist.
pub(super) fn schema() -> Table {
    Table::try_from(Config::default()).expect("the defaults are representable in TOML: a test writes them")
}

fn from_file(path: &Path, places: &mut BTreeMap<String, Place>) -> Result<Config, ConfigError> {
    let whole = |what: String, advice: &str| Problem {
        place: Place::WholeFile(path.into()),
        what,
        advice: advice.into(),
    };
    let unreadable = |error: std::io::Error| {
        let advice = "Name a settings file that exists, or leave it out to run with the defaults";
        whole(format!("cannot be read: {error}"), advice)
    };
    let len = fs::metadata(path).map_err(unreadable)?.len();
    if len > FILE_BYTES_MAX {
        return Err(whole(format!("is {len} bytes long"), "A settings file has at most 1 MiB").into());
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    parse(path, &text, places)
}

fn parse(path: &Path, text: &str, places: &mut BTreeMap<String, Place>) -> Result<Config, ConfigError> {
    let place = |offset: usize| {
        let (line, column) = line_and_column(text, offset);
        Place::File { path: path.into(), line, column }
    };
    let error_place = |span: Option<Range<usize>>| match span {
        Some(span) => place(span.start),
        None => Place::WholeFile(path.into()),
    };
    let table = DeTable::parse(text).map_err(|error| Problem {
        place: error_place(error.span()),
        what: error.message().replace('\n', ", "),
        advice: "The file must be TOML: `[section]` lines, then `key = value` lines".into(),
    })?;
    let keys = keys(table.get_ref());

    let schema = schema();
    let mut unknown = Vec::new();
    for key in &keys {
        match unknown_key(&schema, &key.section, key.name.as_deref()) {
            Some((what, advice)) => unknown.push(Problem { place: place(key.span.start), what, advice }),
            None => drop(places.insert(key.path(), place(key.span.start))),
        }
    }
    if !unknown.is_empty() {
        return Err(unknown.into());
    }

    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let key = keys.iter().filter(|key| key.name.is_some()).find(|key| key.extent.contains(&at));
        Problem {
            place: error_place(error.span()),
            what: match key {
                Some(key) => format!("{}: {}", key.path(), told(&key.section, error.message())),
                None => error.message().into(),
            },
            advice: key.map_or(String::new(), |key| example(&schema, &key.path())),
        }
        .into()
    })
}

/// A key as it stands in the file; without a name, the section itself.
struct Key {
    section: String,
    name: Option<String>,
    /// The key.
    span: Range<usize>,
    /// The key and its value.
    extent: Range<usize>,
}

impl Key {
    fn path(&self) -> String {
        match &self.name {
            Some(name) => format!("{}.{name}", self.section),
            None => self.section.clone(),
        }
    }
}

/// Every section and every key in it, with their places.
fn keys(document: &DeTable<'_>) -> Vec<Key> {
    let mut keys = Vec::new();
    for (section, value) in document {
        let name = section.get_ref().to_string();
        let extent = section.span().start..value.span().end;
        keys.push(Key { section: name.clone(), name: None, span: section.span(), extent });
        if let DeValue::Table(table) = value.get_ref() {
            keys.extend(table.iter().map(|(key, value)| Key {
                section: name.clone(),
                name: Some(key.get_ref().to_string()),
                span: key.span(),
                extent: key.span().start..value.span().end,
            }));
        }
    }
    keys
}

/// What is wrong with a key's name, and the advice; `None` when it is known.
fn unknown_key(schema: &Table, section: &str, name: Option<&str>) -> Option<(String, String)> {
    let Some(known) = schema.get(section).and_then(Value::as_table) else {
        // A key of an unknown section is told of once, with its section.
        if name.is_some() {
            return None;
        }
        let advice = match (nearest(section, schema.keys()), sections_with(schema, section)) {
            (_, Some(sections)) => format!("It is a key of {sections}: put it below that line"),
            (Some(near), _) => format!("Did you mean [{near}]?"),
            (None, None) => format!("The sections are {}", list(schema.keys())),
        };
        return Some((format!("unknown section `{section}`"), advice));
    };
    let name = name?;
    if known.contains_key(name) {
        return None;
    }
    let advice = match (nearest(name, known.keys()), sections_with(schema, name)) {
        (Some(near), _) => format!("Did you mean `{near}`?"),
        (None, Some(sections)) => format!("It is a key of {sections}"),
        (None, None) => format!("The keys of [{section}] are {}", list(known.keys())),
    };
    Some((format!("unknown key `{name}` in [{section}]"), advice))
}

/// A message about a value; those of `[auth]` are secrets, and messages show values.
fn told<'a>(section: &str, message: &'a str) -> &'a str {
    if section == "auth" { r#"expected a list of tokens, such as ["token1", "token2"]"# } else { message }
}

fn sections_with(schema: &Table, key: &str) -> Option<String> {
    let with = |section: &&String| schema[*section].as_table().is_some_and(|keys| keys.contains_key(key));
    let sections: Vec<String> = schema.keys().filter(with).map(|section| format!("[{section}]")).collect();
    (!sections.is_empty()).then(|| sections.join(" or "))
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// `Example: ...` with the default of a key.
fn example(schema: &Table, path: &str) -> String {
    let default = path.split_once('.').and_then(|(section, key)| schema.get(section)?.get(key));
    match (default, path.rsplit_once('.')) {
        (Some(value), Some((_, key))) => format!("The default is `{key} = {value}`"),
        _ => String::new(),
    }
}

fn override_by(
    mut config: Config,
    env: &[(String, String)],
    places: &mut BTreeMap<String, Place>,
) -> Result<Config, ConfigError> {
    let schema = schema();
    let mut problems = Vec::new();
    for (variable, text) in env {
        if is_kubernetes_service(variable, text) {
            continue;
        }
        let place = Place::Variable(variable.clone());
        let name = variable.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
        let Some((section, key)) = name.split_once("__") else {
            let what = "no setting has this name".into();
            let advice =
                format!("Variables of settings are named {PREFIX}SECTION__KEY, with two underscores");
            problems.push(Problem { place, what, advice });
            continue;
        };
        let unknown =
            unknown_key(&schema, section, None).or_else(|| unknown_key(&schema, section, Some(key)));
        if let Some((what, advice)) = unknown {
            problems.push(Problem { place, what, advice });
            continue;
        }
        match set(&config, section, key, text) {
            Ok(changed) => config = changed,
            Err(what) => {
                let what = told(section, &what).into();
                let advice = example(&schema, &format!("{section}.{key}"));
                problems.push(Problem { place: place.clone(), what, advice });
            }
        }
        places.insert(format!("{section}.{key}"), place);
    }
    if problems.is_empty() { Ok(config) } else { Err(problems.into()) }
}

/// The settings with one changed: to `text` as a TOML value if it is one that fits, else as a string.
fn set(config: &Config, section: &str, key: &str, text: &str) -> Result<Config, String> {
    let try_value = |value: Value| {
        let mut table = Table::try_from(config).map_err(|error| error.to_string())?;
        if let Some(keys) = table.get_mut(section).and_then(Value::as_table_mut) {
            keys.insert(key.into(), value);
        }
        Config::deserialize(table).map_err(|error| error.message().to_string())
    };
    let value = toml::de::ValueDeserializer::parse(text.trim()).ok().and_then(|v| Value::deserialize(v).ok());
    let typed = value.map(try_value);
    match (typed, try_value(Value::String(text.into()))) {
        (Some(Ok(config)), _) | (_, Ok(config)) => Ok(config),
        (Some(Err(what)), _) | (None, Err(what)) => Err(what),
    }
}

/// Variables that Kubernetes gives every container for a service that is called `millrace`: not settings.
fn is_kubernetes_service(name: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let of_port =
        name.rsplit_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    !name.contains("__")
        && (name.ends_with("_SERVICE_HOST")
            || name.contains("_SERVICE_PORT")
            || name.ends_with("_PORT") && is_url
            || of_port)
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The known name most like `name`, if one is like it: at most two changes, and no more than half its letters.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    known
        .map(|known| (changes(name, known), known))
        .filter(|(changes, known)| *changes <= 2.max(known.len() / 3) && 2 * changes <= known.len())
        .min_by_key(|(changes, _)| *changes)
        .map(|(_, known)| known)
}

/// The least number of letters to insert, remove or replace to make `a` of `b` (Levenshtein).
fn changes(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // Names are short: what is longer than any key is not compared further.
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
