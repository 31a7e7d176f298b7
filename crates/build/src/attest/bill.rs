//! What is in an image, as an SPDX document (2.3). Pure.

use berth_names::Digest;
use serde_json::{Value, json};

use super::packages::{Found, Package};

pub const BILL_TYPE: &str = "https://spdx.dev/Document";
const NAMESPACE: &str = "https://github.com/berth-runtime/berth/spdx";
const ROOT: &str = "SPDXRef-Image";
const UNKNOWN: &str = "NOASSERTION";
/// Digits that tell packages of the same name apart.
const SHORT: usize = 16;

/// `created` is RFC 3339 in seconds, as SPDX wants it.
pub(crate) fn bill(name: &str, image: &Digest, created: &str, found: &Found) -> Value {
    let all = found.packages.iter();
    let named: Vec<(String, &Package)> = all.map(|package| (id(package, found), package)).collect();
    let mut packages = vec![json!({
        "SPDXID": ROOT,
        "name": name,
        "versionInfo": image,
        "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
    })];
    packages.extend(named.iter().map(|(id, package)| entry(id, package, found)));
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", ROOT)];
    relations.extend(named.iter().map(|(id, _)| relation(ROOT, "CONTAINS", id)));
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("{NAMESPACE}/{}", image.hex()),
        "creationInfo": {
            "created": created,
            "creators": [concat!("Tool: berth-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relations,
    })
}

fn entry(id: &str, package: &Package, found: &Found) -> Value {
    let supplier = match package.maintainer.as_str() {
        "" => UNKNOWN.to_owned(),
        // SPDX writes addresses in other brackets.
        who => format!("Person: {}", who.replace('<', "(").replace('>', ")")),
    };
    json!({
        "SPDXID": id,
        "name": package.name,
        "versionInfo": package.version,
        "supplier": supplier,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "sourceInfo": format!("read from /{}", package.place),
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": package.url(&found.system),
        }],
    })
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// Letters, digits, dots and hyphens alone.
fn id(package: &Package, found: &Found) -> String {
    let known = |letter: char| letter.is_ascii_alphanumeric() || ".-".contains(letter);
    let name: String = package
        .name
        .chars()
        .filter(|letter| known(*letter))
        .collect();
    let whole = format!("{} {}", package.url(&found.system), package.place);
    let sum = Digest::sha256_of(whole.as_bytes());
    let sum: String = sum.hex().chars().take(SHORT).collect();
    format!("SPDXRef-Package-{}-{name}-{sum}", package.kind.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::packages::{Kind, System};
    use super::*;

    #[test]
    fn each_package_stands_in_it_once_and_the_image_has_it() {
        let package = |name: &str, place: &str| Package {
            kind: Kind::Npm,
            name: name.to_owned(),
            version: "1".to_owned(),
            architecture: String::new(),
            maintainer: String::new(),
            place: place.to_owned(),
        };
        let found = Found {
            system: System::default(),
            packages: vec![
                package("@a/b", "x"),
                package("@a/b", "y"),
                package("c/../\"", "z"),
            ],
        };
        let made = || {
            bill(
                "team/app:1",
                &Digest::sha256_of(b"i"),
                "2026-01-01T00:00:00Z",
                &found,
            )
        };
        let bill = made();
        assert_eq!(bill["spdxVersion"], "SPDX-2.3");
        let packages = bill["packages"].as_array().unwrap();
        assert_eq!(packages.len(), 4);
        let ids: BTreeSet<&str> = packages
            .iter()
            .filter_map(|one| one["SPDXID"].as_str())
            .collect();
        assert_eq!(ids.len(), 4);
        for id in &ids {
            let odd = |letter: char| !letter.is_ascii_alphanumeric() && !".-".contains(letter);
            assert!(!id.contains(odd), "{id}");
        }
        let url = &packages[1]["externalRefs"][0]["referenceLocator"];
        assert_eq!(url, "pkg:npm/%40a/b@1");
        let relations = bill["relationships"].as_array().unwrap();
        assert_eq!(relations.len(), 4);
        assert_eq!(made(), bill);
    }
}
