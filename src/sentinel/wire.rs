//! Redis' protocol as a server writes it. Pure.

/// The version of the protocol that a client wants its replies in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// What a client gets that says nothing.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`.
    Status(String),
    /// `-ERR ...`: the text begins with its code.
    Error(String),
    /// A number.
    Number(i64),
    /// A string.
    Text(String),
    /// A string that is not there.
    NoText,
    /// A list.
    List(Vec<Reply>),
    /// A list that is not there.
    NoList,
    /// Keys with values; a list of both in the older version.
    Map(Vec<(Reply, Reply)>),
    /// What the client did not ask for at this moment; a list in the older version.
    Push(Vec<Reply>),
}

impl Reply {
    /// `+OK`.
    pub fn ok() -> Reply {
        Reply::Status("OK".to_string())
    }

    /// A string.
    pub fn text(text: impl Into<String>) -> Reply {
        Reply::Text(text.into())
    }

    /// A list of strings.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Reply {
        Reply::List(texts.into_iter().map(Reply::text).collect())
    }

    /// Appends it as the client reads it.
    pub fn write(&self, version: Version, out: &mut Vec<u8>) {
        let newer = version == Version::Resp3;
        match self {
            Reply::Status(text) => line_out(out, '+', text),
            Reply::Error(text) => line_out(out, '-', text),
            Reply::Number(number) => line_out(out, ':', &number.to_string()),
            Reply::Text(text) => {
                line_out(out, '$', &text.len().to_string());
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Reply::NoText | Reply::NoList if newer => line_out(out, '_', ""),
            Reply::NoText => line_out(out, '$', "-1"),
            Reply::NoList => line_out(out, '*', "-1"),
            Reply::List(items) => list_out(out, '*', items, version),
            Reply::Push(items) => list_out(out, if newer { '>' } else { '*' }, items, version),
            Reply::Map(pairs) => {
                let (kind, count) = if newer { ('%', pairs.len()) } else { ('*', 2 * pairs.len()) };
                line_out(out, kind, &count.to_string());
                for (key, value) in pairs {
                    key.write(version, out);
                    value.write(version, out);
                }
            }
        }
    }
}

fn list_out(out: &mut Vec<u8>, kind: char, items: &[Reply], version: Version) {
    line_out(out, kind, &items.len().to_string());
    for item in items {
        item.write(version, out);
    }
}

fn line_out(out: &mut Vec<u8>, kind: char, text: &str) {
    out.extend_from_slice(kind.to_string().as_bytes());
    // A line is one line, whatever a client has put into the name that is quoted in it.
    out.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_written_in_either_version() {
        let reply = Reply::Map(vec![(Reply::text("k"), Reply::List(vec![Reply::Number(1), Reply::NoText]))]);
        let written = |version| {
            let mut out = Vec::new();
            reply.write(version, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Version::Resp2), "*2\r\n$1\r\nk\r\n*2\r\n:1\r\n$-1\r\n");
        assert_eq!(written(Version::Resp3), "%1\r\n$1\r\nk\r\n*2\r\n:1\r\n_\r\n");
    }

    #[test]
    fn an_error_stays_on_its_line() {
        let mut out = Vec::new();
        Reply::Error("ERR unknown command 'a\r\n+OK'".into()).write(Version::Resp2, &mut out);
        assert_eq!(out, b"-ERR unknown command 'a  +OK'\r\n");
    }
}
