//! SELinux labels.

use crate::error::{Error, Result};
use crate::request::SelinuxOptions;

/// `user:role:type:level`; parts that are not given are those that containers usually have.
pub(super) fn label(options: &SelinuxOptions) -> Result<String> {
    let parts = [
        (&options.user, "system_u"),
        (&options.role, "system_r"),
        (&options.kind, "container_t"),
        (&options.level, "s0"),
    ];
    let odd = |part: &str| part.chars().any(|c| c.is_whitespace() || c.is_control());
    if let Some((part, _)) = parts.iter().find(|(part, _)| odd(part)) {
        let problem = format!("{part:?} is not part of a label");
        return Err(Error::invalid("selinux_options", problem));
    }
    let filled = parts.map(|(part, usual)| if part.is_empty() { usual } else { part });
    Ok(filled.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_four_parts() {
        let level = SelinuxOptions {
            level: "s0:c1,c2".to_owned(),
            ..SelinuxOptions::default()
        };
        let made = label(&level).unwrap();
        assert_eq!(made, "system_u:system_r:container_t:s0:c1,c2");
        let odd = SelinuxOptions {
            kind: "a b".to_owned(),
            ..SelinuxOptions::default()
        };
        assert!(label(&odd).is_err());
    }
}
