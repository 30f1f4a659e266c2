//! Commands (RTMP 7.2) and where they hide the names of app and stream.

use media::amf0::{self, Value};

use crate::Error;

/// Longest app, stream name and parameters together, and longest tcUrl. Signed URLs of CDNs stay under 1 KiB.
const TEXT_LEN_MAX: usize = 2048;

/// A command or its answer: name, transaction and arguments.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: String,
    /// 0: no answer is wanted.
    pub(crate) transaction: f64,
    /// The command object (or null) and what follows it.
    pub(crate) arguments: Vec<Value>,
}

impl Command {
    pub(crate) fn parse(body: &[u8]) -> Result<Command, Error> {
        let mut values = amf0::decode(body)?.into_iter();
        let name = match values.next() {
            Some(Value::String(name)) => name,
            _ => return Err(Error::Malformed("command")),
        };
        let transaction = values.next().and_then(|value| value.as_number()).unwrap_or(0.0);
        Ok(Command { name, transaction, arguments: values.collect() })
    }

    /// The text of an argument, empty when there is none. Argument 0 is the command object.
    pub(crate) fn text(&self, index: usize) -> &str {
        self.arguments.get(index).and_then(Value::as_str).unwrap_or("")
    }

    /// A property of the command object, empty when there is none.
    pub(crate) fn property(&self, key: &str) -> &str {
        self.arguments.first().and_then(|object| object.get(key)).and_then(Value::as_str).unwrap_or("")
    }
}

/// What `connect` said.
#[derive(Clone, Default, Debug)]
pub(crate) struct Connection {
    /// Without parameters and slashes at its ends.
    pub(crate) app: String,
    app_query: String,
    pub(crate) tc_url: String,
}

/// The stream that `publish` or `play` asks for.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Target {
    pub(crate) app: String,
    pub(crate) name: String,
    pub(crate) query: String,
}

impl Connection {
    pub(crate) fn parse(command: &Command) -> Result<Connection, Error> {
        let (app, tc_url) = (command.property("app"), command.property("tcUrl"));
        if app.len() > TEXT_LEN_MAX || tc_url.len() > TEXT_LEN_MAX {
            return Err(Error::TextLong);
        }
        let (app, app_query) = split_query(app);
        let app = app.trim_matches('/').to_owned();
        Ok(Connection { app, app_query: app_query.to_owned(), tc_url: tc_url.to_owned() })
    }

    /// Joins app and stream name. Parameters may be at the stream name (`alice?token=x`), at the app (`live?vhost=y`) or only
    /// in tcUrl; all are kept, in this order. A client that was given the whole URL as the server and no stream name
    /// has both in the app.
    pub(crate) fn target(&self, name: &str) -> Result<Target, Error> {
        let (name, name_query) = split_query(name);
        let name = name.trim_start_matches('/');
        let (_, url_query) = split_query(&self.tc_url);
        let (app, name) = match self.app.rsplit_once('/') {
            Some((app, last)) if name.is_empty() => (app, last),
            _ => (self.app.as_str(), name),
        };
        let mut parts: Vec<&str> = Vec::with_capacity(3);
        for part in [name_query, &self.app_query, url_query] {
            if !part.is_empty() && !parts.contains(&part) {
                parts.push(part);
            }
        }
        let query = parts.join("&");
        let len = app.len().saturating_add(name.len()).saturating_add(query.len());
        if len > TEXT_LEN_MAX {
            return Err(Error::TextLong);
        }
        Ok(Target { app: app.to_owned(), name: name.to_owned(), query })
    }
}

fn split_query(text: &str) -> (&str, &str) {
    text.split_once('?').unwrap_or((text, ""))
}

/// An object value.
pub(crate) fn object(properties: &[(&str, Value)]) -> Value {
    Value::Object(properties.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

/// The information object of `onStatus` (RTMP 7.2.2).
pub(crate) fn status(level: &str, code: &str, description: &str) -> Value {
    object(&[("level", level.into()), ("code", code.into()), ("description", description.into())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(app: &str, tc_url: &str, name: &str) -> (String, String, String) {
        let connect = Command {
            name: "connect".to_owned(),
            transaction: 1.0,
            arguments: vec![object(&[("app", app.into()), ("tcUrl", tc_url.into())])],
        };
        let target = Connection::parse(&connect).unwrap().target(name).unwrap();
        (target.app, target.name, target.query)
    }

    #[test]
    fn names_in_all_their_places() {
        for (app, tc_url, name, expected) in [
            ("live", "rtmp://h/live", "alice", ("live", "alice", "")),
            ("live/", "rtmp://h/live/", "/alice", ("live", "alice", "")),
            ("live", "rtmp://h/live", "alice?token=1&x=2", ("live", "alice", "token=1&x=2")),
            ("live?vhost=v", "rtmp://h/live?vhost=v", "alice", ("live", "alice", "vhost=v")),
            ("live?vhost=v", "rtmp://h/live?vhost=v", "alice?t=1", ("live", "alice", "t=1&vhost=v")),
            ("live", "rtmp://h/live?key=k", "alice", ("live", "alice", "key=k")),
            ("a/b", "rtmp://h/a/b", "c", ("a/b", "c", "")),
            ("live/alice", "rtmp://h/live/alice", "", ("live", "alice", "")),
            ("live/alice?t=1", "rtmp://h/live/alice?t=1", "", ("live", "alice", "t=1")),
            ("", "", "", ("", "", "")),
        ] {
            let found = target(app, tc_url, name);
            assert_eq!((&*found.0, &*found.1, &*found.2), expected, "{app} {tc_url} {name}");
        }
    }

    #[test]
    fn long_names_are_refused() {
        let long = "x".repeat(TEXT_LEN_MAX);
        let connection = Connection { app: "live".to_owned(), ..Connection::default() };
        assert_eq!(connection.target(&long), Err(Error::TextLong));
    }

    #[test]
    fn malformed() {
        assert_eq!(Command::parse(&[]).unwrap_err(), Error::Malformed("command"));
        assert_eq!(Command::parse(&[5]).unwrap_err(), Error::Malformed("command"));
        assert!(matches!(Command::parse(&[2, 0]), Err(Error::Amf0(_))));
        let bare = Command::parse(&amf0::encode(&["pause".into()])).unwrap();
        assert_eq!((bare.transaction, bare.text(3), bare.property("app")), (0.0, "", ""));
    }
}
