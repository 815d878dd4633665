//! What is allowed beyond the types: ranges, names. Pure.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::error::{Path, SpecError};
use super::parse::ERRORS_MAX;
use super::values::redis_bytes;
use super::{API_VERSION, Constraint, Durability, InstanceSpec, KIND, Operator, RedisInstance, directives};
use crate::plain::is_plain;

/// The most replicas of a master: beyond it, sending to them is all that the master does.
pub(super) const REPLICAS_MAX: u32 = 200;
/// The most nodes of an instance on one agent.
pub(super) const DISTRIBUTION_MAX: u32 = 1000;
/// The least memory: an empty Redis uses 1 MiB itself.
const MEMORY_MIN_BYTES: u64 = 2 << 20;
/// The most memory: no agent has more to offer to one task.
const MEMORY_MAX_BYTES: u64 = 1 << 40;
/// The least CPU share that Mesos deals in.
const CPUS_MIN_MILLI: u64 = 10;
/// The most CPU: Redis uses one core, and a few more with `io-threads`.
const CPUS_MAX_MILLI: u64 = 256_000;
/// The shortest wait for an unreachable agent.
const UNREACHABLE_MIN_MS: u64 = 1000;
/// The longest wait: a week.
const UNREACHABLE_MAX_MS: u64 = 7 * 24 * 3_600_000;
/// The shortest silence that can count: less than three probes in it would be chance.
const DETECT_MIN_MS: u64 = 100;
/// The longest silence: for more, nobody needs an operator.
const DETECT_MAX_MS: u64 = 60_000;
/// The shortest lag: replicas acknowledge once in a second, and Redis counts in seconds.
const LAG_MIN_MS: u64 = 1000;
/// The longest lag: so long a master that is cut off goes on to take writes that will be lost.
const LAG_MAX_MS: u64 = 60_000;
/// The longest name: task names, labels and keys are made of it.
const NAME_CHARS_MAX: usize = 40;
/// The most labels of an instance.
const LABELS_MAX: usize = 32;
/// The longest label key or value, as Kubernetes has it.
const LABEL_CHARS_MAX: usize = 63;
/// The most constraints, and the most values of one: each is looked at for each offer.
const CONSTRAINTS_MAX: usize = 32;
/// The longest name or value of an attribute.
const ATTRIBUTE_CHARS_MAX: usize = 255;
/// The longest reference to an image, as container registries have it.
const IMAGE_CHARS_MAX: usize = 255;

/// Everything that is wrong with an instance whose types are right.
pub(super) fn validate(instance: &RedisInstance) -> Vec<SpecError> {
    let mut found = Findings(Vec::new());
    found.require(Path::of(["apiVersion"]), &instance.api_version, is(&instance.api_version, API_VERSION));
    found.require(Path::of(["kind"]), &instance.kind, is(&instance.kind, KIND));
    let metadata = Path::of(["metadata"]);
    found.require(metadata.key("name"), &instance.metadata.name, name(&instance.metadata.name));
    labels(&mut found, &metadata.key("labels"), &instance.metadata.labels);
    numbers(&mut found, &instance.spec);
    if let Some(secret) = instance.spec.secret() {
        found.require(Path::of(["spec", "auth", "secretRef"]), secret, name(secret));
    }
    failover(&mut found, &instance.spec);
    placement(&mut found, &instance.spec);
    redis(&mut found, &instance.spec);
    found.0
}

struct Findings(Vec<SpecError>);

impl Findings {
    fn require(&mut self, path: Path, value: impl Display, outcome: Result<(), String>) {
        if let (Err(message), false) = (outcome, self.is_full()) {
            self.0.push(SpecError::at(path, value, message));
        }
    }

    /// Whether no more is told: whoever goes through a list stops.
    fn is_full(&self) -> bool {
        self.0.len() >= ERRORS_MAX
    }
}

fn check(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}

fn is(value: &str, allowed: &str) -> Result<(), String> {
    check(value == allowed, || format!("{value:?} is not known: allowed is {allowed}"))
}

/// Whether something may be called so.
pub fn name(name: &str) -> Result<(), String> {
    let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    check(well_formed && name.len() <= NAME_CHARS_MAX, || {
        format!(
            "{name:?} is not a name: allowed are 1 to {NAME_CHARS_MAX} letters, digits, - and _, \
             with a letter first and no - or _ last"
        )
    })
}

fn labels(found: &mut Findings, path: &Path, labels: &BTreeMap<String, String>) {
    let count = labels.len();
    found.require(path.clone(), "", check(count <= LABELS_MAX, || format!("{count} labels: allowed are {LABELS_MAX}")));
    for (key, value) in labels {
        if found.is_full() {
            return;
        }
        let form = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let fits = |text: &str| text.len() <= LABEL_CHARS_MAX && text.chars().all(form);
        let allowed = format!("at most {LABEL_CHARS_MAX} letters, digits and - _ . /");
        let key_fits = fits(key) && key.starts_with(|c: char| c.is_ascii_alphanumeric());
        found.require(
            path.key(key),
            value,
            check(key_fits, || format!("{key:?} is not a label: allowed are {allowed}, with a letter or digit first")),
        );
        found.require(
            path.key(key),
            value,
            check(fits(value), || format!("{value:?} is not a label's value: allowed are {allowed}")),
        );
    }
}

fn numbers(found: &mut Findings, spec: &InstanceSpec) {
    let path = Path::of(["spec"]);
    found.require(path.key("masters"), spec.masters, masters(spec.masters));
    found.require(
        path.key("replicas"),
        spec.replicas,
        check(spec.replicas <= REPLICAS_MAX, || {
            format!("{} is too many: allowed is 0 to {REPLICAS_MAX}", spec.replicas)
        }),
    );
    found.require(
        path.key("distribution"),
        spec.distribution,
        check((1..=DISTRIBUTION_MAX).contains(&spec.distribution), || {
            format!("{} is out of range: allowed is 1 to {DISTRIBUTION_MAX}", spec.distribution)
        }),
    );
    found.require(
        path.key("memory"),
        spec.memory,
        check((MEMORY_MIN_BYTES..=MEMORY_MAX_BYTES).contains(&spec.memory.0), || {
            format!("{} is out of range: allowed is 2Mi (an empty Redis uses 1Mi itself) to 1024Gi", spec.memory)
        }),
    );
    found.require(
        path.key("cpus"),
        spec.cpus,
        check((CPUS_MIN_MILLI..=CPUS_MAX_MILLI).contains(&spec.cpus.0), || {
            format!("{} is out of range: allowed is 0.01 to 256 cores", spec.cpus)
        }),
    );
    let wait = spec.replace_unreachable_after;
    found.require(
        path.key("replaceUnreachableAfter"),
        wait,
        check((UNREACHABLE_MIN_MS..=UNREACHABLE_MAX_MS).contains(&wait.0), || {
            format!("{wait} is out of range: allowed is 1s to 1w")
        }),
    );
}

fn failover(found: &mut Findings, spec: &InstanceSpec) {
    let path = Path::of(["spec"]);
    if let Some(durability) = spec.durability {
        // From one replica on, neither asks for more confirmations than there are replicas.
        let possible = durability == Durability::None || spec.replicas > 0;
        let message = || {
            format!(
                "{durability} asks for a replica that confirms each write, and spec.replicas is 0: \
                 allowed is none, or 1 replica and more"
            )
        };
        found.require(path.key("durability"), durability, check(possible, message));
    }
    let path = path.key("failover");
    let silence = spec.failover.detect_within;
    found.require(
        path.key("detectWithin"),
        silence,
        check((DETECT_MIN_MS..=DETECT_MAX_MS).contains(&silence.0), || {
            format!("{silence} is out of range: allowed is 100ms to 60s")
        }),
    );
    let lag = spec.failover.max_lag;
    let fits = (LAG_MIN_MS..=LAG_MAX_MS).contains(&lag.0) && lag.0.is_multiple_of(1000);
    found.require(
        path.key("maxLag"),
        lag,
        check(fits, || format!("{lag} is not 1s to 60s in whole seconds, which are what Redis counts in")),
    );
}

fn masters(masters: u32) -> Result<(), String> {
    match masters {
        1 => Ok(()),
        0 => Err("an instance has a master: allowed is 1".to_string()),
        2 => Err("Redis Cluster needs at least 3 masters, and is not supported yet: allowed is 1".to_string()),
        _ => Err("Redis Cluster (masters: 3 and more) is not supported yet: allowed is 1".to_string()),
    }
}

fn placement(found: &mut Findings, spec: &InstanceSpec) {
    let path = Path::of(["spec", "placement"]);
    if let Some(attribute) = &spec.placement.spread_by {
        found.require(path.key("spreadBy"), attribute, attribute_text(attribute, "an attribute's name"));
    }
    let path = path.key("constraints");
    let constraints = &spec.placement.constraints;
    found.require(
        path.clone(),
        "",
        check(constraints.len() <= CONSTRAINTS_MAX, || {
            format!("{} constraints: allowed are {CONSTRAINTS_MAX}", constraints.len())
        }),
    );
    for (index, constraint) in constraints.iter().enumerate() {
        if found.is_full() {
            return;
        }
        check_constraint(found, &path.index(index), constraint);
    }
}

fn check_constraint(found: &mut Findings, path: &Path, constraint: &Constraint) {
    let Constraint { attribute, operator, values } = constraint;
    found.require(path.key("attribute"), attribute, attribute_text(attribute, "an attribute's name"));
    for (index, value) in values.iter().enumerate() {
        if found.is_full() {
            return;
        }
        found.require(path.key("values").index(index), value, attribute_text(value, "an attribute's value"));
    }
    let outcome = match operator {
        Operator::In | Operator::NotIn => check((1..=CONSTRAINTS_MAX).contains(&values.len()), || {
            format!("in and notIn compare with values: allowed are 1 to {CONSTRAINTS_MAX}, given are {}", values.len())
        }),
        Operator::Exists | Operator::DoesNotExist => {
            check(values.is_empty(), || "exists and doesNotExist compare with nothing: leave values out".to_string())
        }
    };
    found.require(path.key("values"), values.join(", "), outcome);
}

fn attribute_text(text: &str, what: &str) -> Result<(), String> {
    let fits = !text.is_empty() && text.len() <= ATTRIBUTE_CHARS_MAX && text == text.trim() && is_plain(text);
    check(fits, || {
        format!(
            "{text:?} is not {what}: allowed are 1 to {ATTRIBUTE_CHARS_MAX} printable characters, \
             with no blank at either end"
        )
    })
}

fn redis(found: &mut Findings, spec: &InstanceSpec) {
    let path = Path::of(["spec", "redis"]);
    let mut given: BTreeMap<String, &str> = BTreeMap::new();
    for (name, value) in &spec.redis.config {
        if found.is_full() {
            return;
        }
        let path = path.key("config").key(name);
        found.require(path.clone(), value, directives::check(name, value));
        if let Some(other) = given.insert(directives::canonical(name), name) {
            found.require(path, value, Err(format!("{name} and {other} are the same directive: give one of them")));
        }
    }
    backlog(found, &path.key("config"), spec);
    if let Some(image) = &spec.redis.image {
        let form =
            || format!("{image:?} is not an image: allowed is [HOST[:PORT]/]NAME[:TAG][@DIGEST], such as redis:7.2");
        found.require(path.key("image"), image, check(is_image(image), form));
    }
}

/// The backlog counts as memory in use.
fn backlog(found: &mut Findings, path: &Path, spec: &InstanceSpec) {
    const NAME: &str = "repl-backlog-size";
    let Some(value) = spec.redis.config.get(NAME) else { return };
    let fits = redis_bytes(value).is_none_or(|bytes| bytes <= spec.memory.0 / 2);
    let message = || format!("{value} is more than half of spec.memory ({}), of which it is taken", spec.memory);
    found.require(path.key(NAME), value, check(fits, message));
}

/// `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`.
fn is_image(image: &str) -> bool {
    let word = |text: &str, extra: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    let (rest, digest) = image.split_once('@').map_or((image, None), |(rest, digest)| (rest, Some(digest)));
    let (around, last) = rest.rsplit_once('/').map_or((None, rest), |(around, last)| (Some(around), last));
    let (name, tag) = last.split_once(':').map_or((last, None), |(name, tag)| (name, Some(tag)));
    let host_or_name = |(nth, part): (usize, &str)| match part.split_once(':') {
        Some((host, port)) => nth == 0 && word(host, "-.") && port.parse::<u16>().is_ok(),
        None => word(part, "-._"),
    };
    image.len() <= IMAGE_CHARS_MAX
        && word(name, "-._")
        && around.is_none_or(|around| around.split('/').enumerate().all(host_or_name))
        && tag.is_none_or(|tag| word(tag, "-._"))
        && digest
            .is_none_or(|digest| digest.split_once(':').is_some_and(|(kind, hex)| word(kind, "+-._") && word(hex, "")))
}
