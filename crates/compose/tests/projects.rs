//! Files to projects: merging, extending, including, profiles, and what is refused.

#![allow(clippy::unwrap_used)]

use std::fs;

use berth_compose::{Condition, Options, Project};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Files with their texts; the first ones that are `.yaml` and begin with `c` make the project.
fn load(files: &[(&str, &str)]) -> (TempDir, Result<Project, String>) {
    with(files, |_| {})
}

fn with(
    files: &[(&str, &str)],
    change: impl Fn(&mut Options),
) -> (TempDir, Result<Project, String>) {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let mut options = Options {
        files: files
            .iter()
            .filter(|(name, _)| name.starts_with('c') && name.ends_with(".yaml"))
            .map(|(name, _)| root.path().join(name))
            .collect(),
        project_name: Some("p".to_owned()),
        current_directory: root.path().to_owned(),
        ..Options::default()
    };
    change(&mut options);
    let loaded = Project::load(&options).map_err(|error| {
        let text = error.to_string();
        text.replace(&format!("{}/", root.path().display()), "")
    });
    (root, loaded)
}

fn service(files: &[(&str, &str)], name: &str) -> Value {
    load(files).1.unwrap().services[name].value.clone()
}

#[test]
fn later_files_lie_over_earlier_ones() {
    let base = "
services:
  web:
    image: a
    command: [one, two]
    environment: {A: 1, B: 2}
    labels: [x=1]
    ports: ['80:80', '81:81']
    volumes: ['d:/d', './x:/x']
    dns: [1.1.1.1]
    cap_add: [A]
    security_opt: [s]
    depends_on: [db]
    networks: [n]
    healthcheck: {test: one, retries: 3}
    logging: {driver: json-file, options: {a: b}}
    ulimits: {nofile: {soft: 1, hard: 2}}
    tmpfs: /t
  db: {image: b}
volumes: {d: }
networks: {n: , m: }
";
    let over = "
services:
  web:
    image: c
    command: [three]
    environment: [B=3, C=4]
    labels: {y: 2}
    ports: ['80:80', '82:82']
    volumes: ['e:/d']
    dns: 2.2.2.2
    cap_add: [A, B]
    security_opt: [s]
    depends_on: {db: {condition: service_healthy}}
    networks: {m: {aliases: [q]}}
    healthcheck: {test: [NONE]}
    logging: {driver: none}
    ulimits: {nofile: 5}
volumes: {e: }
";
    let web = service(&[("c1.yaml", base), ("c2.yaml", over)], "web");
    assert_eq!(web["image"], "c");
    assert_eq!(web["command"], json!(["three"]));
    assert_eq!(web["environment"], json!({"A": "1", "B": "3", "C": "4"}));
    assert_eq!(web["labels"], json!({"x": "1", "y": "2"}));
    let targets = |field: &str| -> Vec<Value> {
        let items = web[field].as_array().unwrap().iter();
        items.map(|item| item["target"].clone()).collect()
    };
    assert_eq!(targets("ports"), [80, 81, 82]);
    assert_eq!(targets("volumes"), ["/d", "/x"]);
    assert_eq!(web["volumes"][0]["source"], "e");
    assert_eq!(web["dns"], json!(["1.1.1.1", "2.2.2.2"]));
    assert_eq!(web["cap_add"], json!(["A", "B"]));
    assert_eq!(web["security_opt"], json!(["s", "s"]));
    assert_eq!(web["depends_on"]["db"]["condition"], "service_healthy");
    assert_eq!(web["networks"], json!({"n": null, "m": {"aliases": ["q"]}}));
    assert_eq!(web["healthcheck"], json!({"test": ["NONE"], "retries": 3}));
    assert_eq!(web["logging"], json!({"driver": "none"}));
    assert_eq!(web["ulimits"], json!({"nofile": 5}));
    assert_eq!(web["tmpfs"], json!(["/t"]));
}

#[test]
fn an_override_may_take_away_or_replace() {
    let base = "services: {web: {image: a, ports: ['80:80'], dns: [x], environment: {A: 1, B: 2}}}";
    let over = "
services:
  web:
    ports: !reset []
    dns: !override [y]
    environment: {A: !reset null}
";
    let web = service(&[("c1.yaml", base), ("c2.yaml", over)], "web");
    assert_eq!(web["ports"], Value::Null);
    assert_eq!(web["dns"], json!(["y"]));
    assert_eq!(web["environment"], json!({"B": "2"}));
}

#[test]
fn services_extend_others_also_of_other_files() {
    let main = "
services:
  web:
    extends: {file: far/base.yaml, service: base}
    environment: {B: mine}
  more: {extends: web, command: [x]}
volumes: {d: }
";
    let far = "
services:
  base: {extends: root, environment: {A: base, B: base}, volumes: ['./here:/h', 'd:/d']}
  root: {image: r, build: ./ctx}
";
    let (root, project) = load(&[("c.yaml", main), ("far/base.yaml", far)]);
    let project = project.unwrap();
    let more = &project.services["more"].value;
    assert_eq!(more["image"], "r");
    assert_eq!(more["environment"], json!({"A": "base", "B": "mine"}));
    let far = root.path().join("far");
    assert_eq!(
        more["volumes"][0]["source"],
        far.join("here").to_str().unwrap()
    );
    assert_eq!(more["build"]["context"], far.join("ctx").to_str().unwrap());
    assert_eq!(more["extends"], Value::Null);
    let (_root, circle) = load(&[(
        "c.yaml",
        "services: {a: {extends: b, image: x}, b: {extends: a}}",
    )]);
    assert_eq!(
        circle.unwrap_err(),
        "c.yaml:1:25: services.a.extends: services extend each other: a → b → a"
    );
}

#[test]
fn files_are_included_with_their_own_place_and_variables() {
    let main = "
include: [part/part.yaml]
services: {web: {image: w, depends_on: [db]}}
";
    let part = "services: {db: {image: 'db:${TAG}', volumes: ['./d:/d']}}\nnetworks: {n: }\n";
    let (root, project) = load(&[
        ("c.yaml", main),
        ("part/part.yaml", part),
        ("part/.env", "TAG=7\n"),
    ]);
    let project = project.unwrap();
    let db = &project.services["db"].value;
    assert_eq!(db["image"], "db:7");
    let place = root.path().join("part/d");
    assert_eq!(db["volumes"][0]["source"], place.to_str().unwrap());
    assert!(project.networks.contains_key("n"));

    let (_root, conflict) = load(&[
        ("c.yaml", "include: [d.yaml]\nservices: {web: {image: w}}"),
        ("d.yaml", "services: {web: {image: x}}"),
    ]);
    let conflict = conflict.unwrap_err();
    assert!(
        conflict.contains("services.web stands at c.yaml:2:17"),
        "{conflict}"
    );
    let (_root, circle) = load(&[("c.yaml", "include: [c.yaml]\nservices: {w: {image: w}}")]);
    assert_eq!(
        circle.unwrap_err(),
        "c.yaml:1:11: include: c.yaml includes itself"
    );
}

#[test]
fn profiles_leave_services_out_until_they_are_wanted() {
    let file = "
services:
  web: {image: w, depends_on: {debug: {condition: service_started, required: false}}}
  debug: {image: d, profiles: [tools]}
  helper: {image: h, profiles: [tools], depends_on: [debug]}
";
    let names = |project: &Project| project.services.keys().cloned().collect::<Vec<_>>();
    let (_root, plain) = load(&[("c.yaml", file)]);
    let plain = plain.unwrap();
    assert_eq!(names(&plain), ["web"]);
    let picked = plain.select(&["debug".to_owned()], true).unwrap();
    assert_eq!(names(&picked), ["debug"]);
    for profile in ["tools", "*"] {
        let (_root, tools) = with(&[("c.yaml", file)], |options| {
            options.profiles = vec![profile.to_owned()];
        });
        assert_eq!(names(&tools.unwrap()), ["debug", "helper", "web"]);
    }
    let error = plain.select(&["gone".to_owned()], true).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no service is called \"gone\"; there are: web"
    );
}

#[test]
fn variables_of_files_stand_below_those_of_the_service() {
    let file = "
services:
  web:
    image: w
    env_file: [one.env, {path: two.env}, {path: gone.env, required: false}, {path: raw.env, format: raw}]
    label_file: labels.env
    environment: {A: own, FROM_SHELL: , NOWHERE: }
    labels: {a: own}
";
    let (_root, project) = with(
        &[
            ("c.yaml", file),
            ("one.env", "A=one\nB=one\nC=one\n"),
            ("two.env", "B=two\nD=$C-$A\n"),
            ("raw.env", "R='$A'\n"),
            ("labels.env", "a=file\nb=file\n"),
        ],
        |options| {
            options.environment = [("FROM_SHELL".to_owned(), "s".to_owned())].into();
        },
    );
    let web = project.unwrap().services["web"].value.clone();
    let expected = json!({
        "A": "own", "B": "two", "C": "one", "D": "one-own", "R": "'$A'",
        "FROM_SHELL": "s", "NOWHERE": null,
    });
    assert_eq!(web["environment"], expected);
    assert_eq!(web["labels"], json!({"a": "own", "b": "file"}));
}

#[test]
fn services_are_ordered_by_what_they_wait_for() {
    let file = "
services:
  proxy: {image: p, depends_on: {web: {condition: service_healthy, restart: true}}}
  web: {image: w, links: ['db:data'], depends_on: {init: {condition: service_completed_successfully}}}
  init: {image: i}
  db: {image: d}
  side: {image: s, network_mode: 'service:web', volumes_from: [db]}
";
    let (_root, project) = load(&[("c.yaml", file)]);
    let project = project.unwrap();
    assert_eq!(
        project.order().unwrap(),
        ["db", "init", "web", "proxy", "side"]
    );
    let on = project.services["web"].dependencies();
    let conditions: Vec<_> = on
        .iter()
        .map(|on| (on.service.as_str(), on.condition))
        .collect();
    assert_eq!(
        conditions,
        [("db", Condition::Started), ("init", Condition::Completed)]
    );
    assert!(project.services["proxy"].dependencies()[0].restart);
    assert_eq!(project.services["side"].networks(), Vec::<String>::new());
}

#[test]
fn names_are_given_to_what_has_none() {
    let file = "
services: {web: {image: w, volumes: ['v:/v', 'x:/x']}}
volumes: {v: , x: {external: true}, y: {name: named}}
networks: {default: {driver: bridge}}
";
    let (_root, project) = load(&[("c.yaml", file)]);
    let project = project.unwrap();
    assert_eq!(project.networks["default"].name(), "p_default");
    assert_eq!(project.volumes["v"].name(), "p_v");
    assert_eq!(project.volumes["x"].name(), "x");
    assert_eq!(project.volumes["y"].name(), "named");
    let used = project.select(&[], true).unwrap();
    assert_eq!(used.volumes.keys().collect::<Vec<_>>(), ["v", "x"]);
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_what_to_do() {
    let web = |fields: &str| format!("services:\n  web:\n    image: w\n    {fields}\n");
    for (text, expected) in [
        (
            web("prots: [80]"),
            "c.yaml:4:5: services.web.prots: there is no such field; is \"ports\" meant?",
        ),
        (
            web("zzzzzzz: 1"),
            "c.yaml:4:5: services.web.zzzzzzz: there is no such field; own ones begin with x-",
        ),
        (
            web("ports: ['80:x']"),
            "c.yaml:4:13: services.web.ports[0]: \"80:x\" is no port: \"x\" is no number up to 65535, nor a range; write \"host:container\", as \"8080:80\" or \"127.0.0.1:8080:80/tcp\"",
        ),
        (
            web("privileged: maybe"),
            "c.yaml:4:17: services.web.privileged: it has to be true or false, and is \"maybe\"",
        ),
        (
            web("mem_limit: lots"),
            "c.yaml:4:16: services.web.mem_limit: it has to be a size, such as 512m or 1g, and is \"lots\"",
        ),
        (
            web("stop_grace_period: 5"),
            "c.yaml:4:24: services.web.stop_grace_period: it has to be a time, such as 1m30s, and is 5",
        ),
        (
            web("command: a && b"),
            "c.yaml:4:14: services.web.command: no shell reads this line, so that & means nothing; write sh -c '…', or quote it",
        ),
        (
            web("volumes: ['data:/d']"),
            "c.yaml:4:15: services.web.volumes[0]: no volume is called \"data\"; declare it below volumes at the end of the file, or write ./data for a directory",
        ),
        (
            web("networks: [front]"),
            "c.yaml:4:16: services.web.networks: no network is called \"front\"; declare it below networks at the end of the file",
        ),
        (
            web("depends_on: [db]"),
            "c.yaml:4:18: services.web.depends_on.db: no service is called \"db\", or its profile is not in use",
        ),
        (
            web("depends_on: {web: {condition: ready}}"),
            "c.yaml:4:23: services.web.depends_on.web: \"ready\" is no condition; there are service_started, service_healthy, service_completed_successfully",
        ),
        (
            web("depends_on: [web]"),
            "services wait for each other in a circle: web → web; one of these depends_on has to go",
        ),
        (
            web("secrets: [s]"),
            "c.yaml:4:15: services.web.secrets[0]: \"s\" is not declared below secrets at the end of the file",
        ),
        (
            web("healthcheck: {test: [curl]}"),
            "c.yaml:4:25: services.web.healthcheck.test: a list begins with CMD, CMD-SHELL or NONE, and not with \"curl\"",
        ),
        (
            web("container_name: x\n    scale: 2"),
            "c.yaml:4:21: services.web.container_name: 2 containers cannot have one name; drop container_name",
        ),
        (
            web("environment: ['A = 1']"),
            "c.yaml:4:19: services.web.environment[0]: \"A = 1\" has no name before its =, or a space after it; write NAME=value",
        ),
        (
            web("hostname: '${NAME:?say who}'"),
            "c.yaml:4:15: services.web.hostname: the variable NAME has to be set: say who (in the environment, or in .env)",
        ),
        (
            web("volumes: ['/a:/b:/c:/d']"),
            "c.yaml:4:15: services.web.volumes[0]: \"/a:/b:/c:/d\" has too many colons; write source:target, and options after a further colon",
        ),
        (
            web("tmpfs: /x\n    volumes: [/x]"),
            "c.yaml:5:15: services.web.volumes[0]: /x has services.web.tmpfs[0] already",
        ),
        (
            web("env_file: gone.env"),
            "c.yaml:4:15: env_file: gone.env is not there; make it, or write required: false",
        ),
        (
            "services: {web: {}}".to_owned(),
            "c.yaml:1:17: services.web: it needs an image, or a build that makes one",
        ),
        (
            "services: [web]".to_owned(),
            "c.yaml:1:11: services: it has to be a mapping of names, and is a list",
        ),
        (
            "- web".to_owned(),
            "c.yaml:1:1: a Compose file is a mapping with services in it, and this is a list",
        ),
        (
            "networks: {n: }".to_owned(),
            "c.yaml:1:1: there are no services; write them below \"services:\"",
        ),
        (
            String::new(),
            "c.yaml:1:1: this is not YAML: the file is empty; it needs services",
        ),
    ] {
        let (_root, loaded) = load(&[("c.yaml", &text)]);
        assert_eq!(loaded.unwrap_err(), expected, "{text}");
    }
}

#[test]
fn unset_variables_are_warned_of_once() {
    let file = "version: '3'\nservices: {web: {image: 'w$TAG', hostname: '$TAG$NAME'}}";
    let (_root, project) = load(&[("c.yaml", file)]);
    assert_eq!(
        project.unwrap().warnings,
        [
            "the variable NAME is not set; it is taken to be empty",
            "the variable TAG is not set; it is taken to be empty",
            "version means nothing any more; it may be removed",
        ]
    );
}
