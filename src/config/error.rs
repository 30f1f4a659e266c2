//! What is wrong with the settings: where, what, and what to do.

use std::fmt;
use std::path::PathBuf;

/// Everything found wrong, at least one problem. Displayed one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    /// In the order of the places.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where it was set.
    pub place: Place,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

/// Where a setting comes from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// The settings file; line and column count from 1.
    File {
        /// As it was given.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
    },
    /// The settings file as a whole.
    WholeFile(PathBuf),
    /// An environment variable.
    Variable(String),
    /// Set nowhere: a default, or made by the program. The key, as `section.key`.
    Key(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Place::WholeFile(path) => write!(f, "{}", path.display()),
            Place::Variable(name) => write!(f, "environment variable {name}"),
            Place::Key(key) => write!(f, "setting {key}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        if !self.advice.is_empty() {
            write!(f, ". {}", self.advice)?;
        }
        Ok(())
    }
}

impl From<Vec<Problem>> for ConfigError {
    fn from(mut problems: Vec<Problem>) -> ConfigError {
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        ConfigError { problems }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> ConfigError {
        ConfigError { problems: vec![problem] }
    }
}
