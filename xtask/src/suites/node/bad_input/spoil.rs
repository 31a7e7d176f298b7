//! A sound request with one field at a time out of range.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

/// A request that differs from a sound one in one place.
pub struct Spoilt {
    /// Names of the fields on the way, with dots.
    pub field: String,
    pub value: String,
    pub request: DynamicMessage,
    /// The value is one that no version of the contract knows.
    pub unknown_enum: bool,
}

/// What this runtime does not read: fields for other systems, and the pod's configuration where the
/// pod is there already.
const UNREAD: [&str; 2] = ["windows", "sandbox_config"];
/// The kernel's longest path and then some.
const LONG: usize = 70_000;

/// Every field of the message and of those in it, in turn, with each bad value of its kind. Messages
/// that are not there are put in with their defaults but for that field.
pub fn each(sound: &DynamicMessage) -> Vec<Spoilt> {
    let mut all = Vec::new();
    for field in sound.descriptor().fields() {
        if UNREAD.contains(&field.name()) {
            continue;
        }
        for (path, shown, value, unknown_enum) in values(sound, &field) {
            let mut request = sound.clone();
            request.set_field(&field, value);
            all.push(Spoilt {
                field: format!("{}{path}", field.name()),
                value: shown,
                request,
                unknown_enum,
            });
        }
    }
    all
}

type Bad = (String, String, Value, bool);

fn values(sound: &DynamicMessage, field: &FieldDescriptor) -> Vec<Bad> {
    if field.is_map() {
        let entries = [("", "empty name"), ("a\nb", "\u{1}"), ("../x", "y")];
        return entries
            .into_iter()
            .map(|(key, value)| {
                let map = [(MapKey::String(key.into()), Value::String(value.into()))];
                let shown = format!("{{{key:?}: {value:?}}}");
                (String::new(), shown, Value::Map(map.into()), false)
            })
            .collect();
    }
    let singles = match field.kind() {
        Kind::Message(descriptor) => {
            let present = sound.get_field(field);
            let within = match present.as_ref() {
                Value::Message(message) => message.clone(),
                Value::List(list) => match list.first() {
                    Some(Value::Message(message)) => message.clone(),
                    _ => DynamicMessage::new(descriptor),
                },
                _ => DynamicMessage::new(descriptor),
            };
            each(&within)
                .into_iter()
                .map(|spoilt| {
                    let value = Value::Message(spoilt.request);
                    let path = format!(".{}", spoilt.field);
                    (path, spoilt.value, value, spoilt.unknown_enum)
                })
                .collect()
        }
        kind => scalars(&kind),
    };
    if !field.is_list() {
        return singles;
    }
    let listed = |(path, shown, value, unknown): Bad| {
        (
            path,
            format!("[{shown}]"),
            Value::List(vec![value]),
            unknown,
        )
    };
    singles.into_iter().map(listed).collect()
}

fn scalars(kind: &Kind) -> Vec<Bad> {
    let shown = |value: Value, text: String| (String::new(), text, value, false);
    match kind {
        Kind::Int32 => [i32::MIN, -1, i32::MAX]
            .map(|n| shown(Value::I32(n), n.to_string()))
            .into(),
        Kind::Int64 => [i64::MIN, -2, i64::MAX]
            .map(|n| shown(Value::I64(n), n.to_string()))
            .into(),
        Kind::Uint32 => vec![shown(Value::U32(u32::MAX), u32::MAX.to_string())],
        Kind::Uint64 => vec![shown(Value::U64(u64::MAX), u64::MAX.to_string())],
        Kind::Bool => vec![shown(Value::Bool(true), "true".to_owned())],
        Kind::Enum(_) => vec![(String::new(), "4711".into(), Value::EnumNumber(4711), true)],
        Kind::String => ["\u{1}\n\u{7f}", "../../../..", "/", "\0", "no such thing"]
            .into_iter()
            .map(str::to_owned)
            .chain([String::new(), "x".repeat(LONG)])
            .map(|text| {
                let short: String = text.chars().take(20).collect();
                shown(Value::String(text), format!("{short:?}"))
            })
            .collect(),
        _ => Vec::new(),
    }
}
