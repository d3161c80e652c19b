//! From the tables of a file to a plan, noting every problem on the way.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use driftline_types::{
    Injections, PipelineName, StageName,
    config::{self, ConfigProblem},
};
use serde::{Deserialize, Deserializer, de, de::DeserializeOwned};
use serde_json::{Map, Value as Json};
use toml::{Table, Value};

use crate::{
    BatchConfig, BrokerConfig, KindSpec, Kinds, MonitorConfig, Node, Override, Plan, Problem, Problems, Role,
    SchemaSpec, Severity, TestCase, broker,
    document::{Document, shape},
    expect::Others,
    graph, inject,
    overrides::{Origin, parse_key},
    rules,
};

const SECTIONS: [&str; 9] =
    ["pipeline", "broker", "sources", "stages", "sinks", "monitor", "telemetry", "inject", "tests"];
/// The keys that every source, stage and sink may have; the rest belong to its kind.
const COMMON_KEYS: [&str; 3] = ["kind", "inputs", "batch"];
/// What a node cannot be called, because the pipeline has a topic of that name.
const RESERVED: [&str; 6] = ["profiles", "alarms", "control", "feedback", "monitor", "probes"];
/// The entries of `[monitor]` that name files, which are read when they are needed.
const MONITOR_FILES: [&[&str]; 2] = [&["monitor", "reference"], &["monitor", "probes", "path"]];
/// Values of a path key that are not paths.
const NOT_PATHS: [&str; 2] = [config::BUILTIN, "-"];

/// Makes a plan of the text of a file, and tries the overrides of each of its tests.
///
/// # Errors
/// Every problem there is.
pub(crate) fn compile(file: &Path, text: &str, overrides: &[Override], kinds: &Kinds) -> Result<Plan, Problems> {
    let plan = compile_once(file, text, overrides, kinds)?;
    let mut problems = Vec::new();
    for test in plan.tests.iter().filter(|test| !test.overrides.is_empty()) {
        let overrides: Vec<_> = overrides.iter().chain(&test.overrides).cloned().collect();
        if let Err(found) = compile_once(file, text, &overrides, kinds) {
            problems.extend(found.iter().cloned());
        }
    }
    if problems.is_empty() { Ok(plan) } else { Err(Problems::new(problems)) }
}

fn compile_once(file: &Path, text: &str, overrides: &[Override], kinds: &Kinds) -> Result<Plan, Problems> {
    let mut document = Document::parse(file, text).map_err(Problems::new)?;
    let mut problems = Vec::new();
    for change in overrides {
        if let Err(problem) = document.apply(change) {
            problems.push(document.problem(problem));
        }
    }
    Compiler { document: &document, kinds, problems }.plan()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PipelineSection {
    name: PipelineName,
    #[serde(default = "default_partitions", deserialize_with = "partitions")]
    partitions: u32,
}

fn default_partitions() -> u32 {
    2
}

fn partitions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        n @ 1..=1024 => Ok(n),
        n => Err(de::Error::invalid_value(de::Unexpected::Unsigned(n.into()), &"a whole number from 1 to 1024")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestSection {
    name: String,
    #[serde(default, rename = "set")]
    _set: Table,
    expect: Vec<Map<String, Json>>,
    #[serde(default)]
    more: bool,
}

/// A source, stage or sink as far as it could be read.
struct Draft<'a> {
    role: Role,
    /// As written, valid or not: others may name it.
    key: &'a str,
    name: Option<StageName>,
    spec: Option<&'a KindSpec>,
    inputs: Vec<String>,
    batch: BatchConfig,
    config: Table,
}

impl Draft<'_> {
    fn path(&self) -> Vec<String> {
        vec![self.role.section().to_owned(), self.key.to_owned()]
    }

    fn path_to(&self, key: &str) -> Vec<String> {
        vec![self.role.section().to_owned(), self.key.to_owned(), key.to_owned()]
    }

    fn input_path(&self, i: usize) -> Vec<String> {
        vec![self.role.section().to_owned(), self.key.to_owned(), "inputs".to_owned(), i.to_string()]
    }

    /// The files it names with their keys, there or not. A folder, a pipe or a device is none.
    fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let keys = self.spec.into_iter().flat_map(|spec| spec.paths.iter().copied());
        let paths = keys.filter_map(move |key| Some((key, self.config.get(key)?.as_str()?)));
        let paths = paths
            .filter(|(_, path)| !path.is_empty() && !NOT_PATHS.contains(path))
            .map(|(key, path)| (key, Path::new(path)));
        paths.filter(|(_, path)| path.metadata().map_or(true, |found| found.is_file()))
    }
}

struct Compiler<'a> {
    document: &'a Document<'a>,
    kinds: &'a Kinds,
    problems: Vec<Problem>,
}

impl<'a> Compiler<'a> {
    fn plan(mut self) -> Result<Plan, Problems> {
        for key in self.document.root.keys().filter(|key| !SECTIONS.contains(&key.as_str())) {
            self.note(ConfigProblem::unknown_key(vec![key.clone()], &SECTIONS));
        }
        let pipeline: Option<PipelineSection> = self.section("pipeline", &[]);
        let broker = self.broker();
        let monitor = self.monitor();
        let telemetry = self.section("telemetry", &[]);
        let drafts: Vec<_> = Role::ALL.into_iter().flat_map(|role| self.drafts(role)).collect();
        let order = self.check_graph(&drafts);
        self.check_files(monitor.as_ref(), &drafts);
        let injections = self.injections(&drafts);
        self.check_rules(monitor.as_ref(), &drafts);
        let tests = self.tests();

        let (Some(pipeline), Some(broker), Some(monitor), Some(telemetry), true) =
            (pipeline, broker, monitor, telemetry, self.problems.is_empty())
        else {
            return Err(Problems::new(self.problems));
        };
        let given = [monitor.reference.is_some(), monitor.probes.is_some()];
        let files = MONITOR_FILES.iter().zip(given).filter(|(_, given)| *given);
        let monitor_files = files.map(|(entry, _)| self.document.written_at(entry)).collect();
        let mut plan = Plan {
            name: pipeline.name,
            file: self.document.file.to_owned(),
            partitions: pipeline.partitions,
            broker,
            monitor,
            telemetry,
            sources: Vec::new(),
            stages: Vec::new(),
            sinks: Vec::new(),
            injections,
            tests,
            warnings: self.warnings(&drafts),
            monitor_files,
        };
        for draft in order.into_iter().map(|i| &drafts[i]) {
            let node = node(draft);
            match draft.role {
                Role::Source => plan.sources.extend(node),
                Role::Stage => plan.stages.extend(node),
                Role::Sink => plan.sinks.extend(node),
            }
        }
        Ok(plan)
    }

    /// Reads a section; one that is not there is read as empty.
    fn section<T: DeserializeOwned>(&mut self, name: &str, paths: &[&str]) -> Option<T> {
        let mut table = self.table(&[name.to_owned()], self.document.root.get(name))?.clone();
        self.resolve_paths(&mut table, &[name.to_owned()], paths);
        self.read(&Value::Table(table), &[name.to_owned()])
    }

    /// Reads who keeps the log.
    fn broker(&mut self) -> Option<BrokerConfig> {
        let at = vec!["broker".to_owned()];
        let mut table = self.table(&at, self.document.root.get("broker"))?.clone();
        self.resolve_paths(&mut table, &at, &["path"]);
        if let Some(Value::Table(properties)) = table.get_mut("properties") {
            let is_probe = |name: &str| properties.get(name).and_then(Value::as_str) == Some(broker::PROBE);
            let paths: Vec<_> = broker::CERTIFICATES.into_iter().filter(|&name| !is_probe(name)).collect();
            self.resolve_paths(properties, &["broker".to_owned(), "properties".to_owned()], &paths);
            for (name, property) in properties.iter_mut() {
                if let Value::Table(place) = property {
                    let at = ["broker".to_owned(), "properties".to_owned(), name.clone()];
                    self.resolve_paths(place, &at, &["file"]);
                }
            }
        }
        if let Some(Value::Table(token)) = table.get_mut("token") {
            self.resolve_paths(token, &["broker".to_owned(), "token".to_owned()], &["file"]);
        }
        for problem in broker::check(&table, self.kinds.properties) {
            self.note_of(&at, problem);
        }
        self.read(&Value::Table(table), &at)
    }

    /// Reads how signals are monitored.
    fn monitor(&mut self) -> Option<MonitorConfig> {
        let at = vec!["monitor".to_owned()];
        let mut table = self.table(&at, self.document.root.get("monitor"))?.clone();
        self.resolve_paths(&mut table, &at, &["reference"]);
        if let Some(Value::Table(probes)) = table.get_mut("probes") {
            self.resolve_paths(probes, &["monitor".to_owned(), "probes".to_owned()], &["path"]);
        }
        self.read(&Value::Table(table), &at)
    }

    fn drafts(&mut self, role: Role) -> Vec<Draft<'a>> {
        let section = role.section().to_owned();
        let document = self.document;
        let Some(nodes) = self.table(std::slice::from_ref(&section), document.root.get(&section)) else {
            return Vec::new();
        };
        if nodes.is_empty() && role != Role::Stage {
            let message = format!("a pipeline needs a {role}, add [{section}.NAME]");
            self.note(ConfigProblem { path: vec![section], found: None, message });
        }
        nodes.iter().filter_map(|(key, value)| self.draft(role, key, value)).collect()
    }

    /// Reads a node; `None` if it is no table.
    fn draft(&mut self, role: Role, key: &'a str, value: &'a Value) -> Option<Draft<'a>> {
        let mut draft = Draft {
            role,
            key,
            name: None,
            spec: None,
            inputs: Vec::new(),
            batch: BatchConfig::default(),
            config: Table::new(),
        };
        let path = draft.path();
        let table = self.table(&path, Some(value))?;
        draft.name = self.name(&draft);
        draft.spec = self.kind(&draft, table.get("kind"));
        if let Some(inputs) = table.get("inputs") {
            draft.inputs = self.read(inputs, &draft.path_to("inputs")).unwrap_or_default();
        }
        self.check_inputs_key(&draft, table.get("inputs"));
        if let Some(batch) = table.get("batch") {
            draft.batch = self.read(batch, &draft.path_to("batch")).unwrap_or_default();
        }
        let own = table.iter().filter(|(key, _)| !COMMON_KEYS.contains(&key.as_str()));
        draft.config = own.map(|(key, value)| (key.clone(), value.clone())).collect();
        if let Some(spec) = draft.spec {
            self.resolve_paths(&mut draft.config, &path, spec.paths);
            for problem in (spec.check)(&draft.config) {
                if !is_empty_path(&problem, spec, &draft.config) {
                    self.note_of(&path, suggest_common_key(problem));
                }
            }
        }
        Some(draft)
    }

    fn name(&mut self, draft: &Draft<'_>) -> Option<StageName> {
        let problem = match StageName::try_new(draft.key) {
            Ok(name) if !RESERVED.contains(&draft.key) => return Some(name),
            Ok(_) => format!("this name is taken by a topic of every pipeline, as are {}", RESERVED.join(", ")),
            Err(error) => error.to_string(),
        };
        self.note(ConfigProblem { path: draft.path(), found: None, message: problem });
        None
    }

    fn kind(&mut self, draft: &Draft<'_>, kind: Option<&Value>) -> Option<&'a KindSpec> {
        let kinds = self.kinds.of(draft.role);
        let (found, message) = match kind {
            None => (None, format!("is missing, {}", kinds_allowed("", kinds))),
            Some(Value::String(kind)) => match kinds.iter().find(|spec| spec.name == kind) {
                Some(spec) => return Some(spec),
                None => (Some(format!("{kind:?}")), kinds_allowed(kind, kinds)),
            },
            Some(other) => (Some(other.to_string()), kinds_allowed("", kinds)),
        };
        self.note(ConfigProblem { path: draft.path_to("kind"), found, message });
        None
    }

    fn check_inputs_key(&mut self, draft: &Draft<'_>, inputs: Option<&Value>) {
        let message = match (draft.role, inputs) {
            (Role::Source, Some(_)) => "a source has no inputs",
            (Role::Stage | Role::Sink, None) => "is missing, allowed are names of sources and stages",
            (Role::Stage | Role::Sink, Some(Value::Array(inputs))) if inputs.is_empty() => {
                "found [], allowed are names of sources and stages, at least one"
            }
            _ => return,
        };
        self.note(ConfigProblem { path: draft.path_to("inputs"), found: None, message: message.to_owned() });
    }

    /// Checks names and edges. Returns an order in which each node follows those it reads.
    fn check_graph(&mut self, drafts: &[Draft<'_>]) -> Vec<usize> {
        for (i, draft) in drafts.iter().enumerate() {
            if let Some(first) = drafts[..i].iter().find(|other| other.key == draft.key) {
                let message =
                    format!("the name is taken by the {} of that name, allowed is each name once", first.role);
                self.note(ConfigProblem { path: draft.path(), found: None, message });
            }
        }
        let mut inputs = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let mut found = Vec::new();
            for (i, input) in draft.inputs.iter().enumerate().filter(|_| draft.role != Role::Source) {
                if draft.inputs[..i].contains(input) {
                    self.note(ConfigProblem {
                        path: draft.input_path(i),
                        found: Some(format!("{input:?}")),
                        message: "allowed is each input once".to_owned(),
                    });
                } else if let Some(target) = self.input(draft, i, drafts) {
                    found.push(target);
                }
            }
            inputs.push(found);
        }
        let graph::Order { order, cycles } = graph::order(&inputs);
        for cycle in cycles {
            let names: Vec<_> = cycle.iter().chain(cycle.first()).map(|&v| drafts[v].key).collect();
            let message = format!("the cycle {}, allowed is a graph without cycles", names.join(" -> "));
            self.note(ConfigProblem { path: drafts[cycle[0]].path_to("inputs"), found: None, message });
        }
        order
    }

    /// Checks that no sink writes a file that another sink writes, or that is read: the pipeline file is, too.
    fn check_files(&mut self, monitor: Option<&MonitorConfig>, drafts: &[Draft<'_>]) {
        let mut others = vec![(self.document.file.to_owned(), "it is the pipeline file".to_owned())];
        let reference = monitor.and_then(|monitor| monitor.reference.clone());
        others.extend(reference.map(|file| (file, "monitor.reference names this file".to_owned())));
        let probes = monitor.and_then(|monitor| Some(monitor.probes.as_ref()?.path.clone()));
        others.extend(probes.map(|file| (file, "monitor.probes.path names this file".to_owned())));
        // Sinks come last.
        for draft in drafts {
            for (key, file) in draft.files() {
                let other = others.iter().find(|(other, _)| draft.role == Role::Sink && is_same(other, file));
                if let Some((_, whose)) = other {
                    let message = format!("{whose}, allowed is one that nothing else of the pipeline reads or writes");
                    self.note(ConfigProblem { path: draft.path_to(key), found: Some(format!("{file:?}")), message });
                }
                let does = if draft.role == Role::Sink { "writes" } else { "reads" };
                others.push((file.to_owned(), format!("the {} {} {does} this file", draft.role, draft.key)));
            }
        }
    }

    /// Checks rules against the nodes there are.
    fn check_rules(&mut self, monitor: Option<&MonitorConfig>, drafts: &[Draft<'_>]) {
        let writers = drafts.iter().filter(|draft| draft.role != Role::Sink);
        let writers: Vec<(&str, bool)> = writers.map(|draft| (draft.key, draft.role == Role::Source)).collect();
        for problem in monitor.map_or_else(Vec::new, |monitor| rules::check(&monitor.rules, &writers)) {
            self.note_of(&["monitor".to_owned(), "rules".to_owned()], problem);
        }
    }

    /// Finds what is allowed in a right file but most likely a mistake.
    fn warnings(&self, drafts: &[Draft<'_>]) -> Vec<Problem> {
        let read = |draft: &Draft<'_>| drafts.iter().any(|reader| reader.inputs.iter().any(|input| input == draft.key));
        let unread = drafts.iter().filter(|draft| draft.role != Role::Sink && !read(draft));
        let message = "nothing reads its output";
        unread
            .map(|draft| ConfigProblem { path: draft.path(), found: None, message: message.to_owned() })
            .map(|problem| Problem { severity: Severity::Warning, ..self.document.problem(problem) })
            .collect()
    }

    /// Checks one edge. Returns the node it comes from, if that is one to read from.
    fn input(&mut self, reader: &Draft<'_>, i: usize, drafts: &[Draft<'_>]) -> Option<usize> {
        let input = reader.inputs[i].as_str();
        let path = reader.input_path(i);
        let writers = || drafts.iter().filter(|draft| draft.role != Role::Sink).map(|draft| draft.key);
        let Some(target) = drafts.iter().position(|draft| draft.key == input) else {
            let allowed: Vec<_> = writers().filter(|key| *key != reader.key).collect();
            let message = format!("no node of that name, {}", config::allowed_words(input, &allowed));
            self.note(ConfigProblem { path, found: Some(format!("{input:?}")), message });
            return None;
        };
        let writer = &drafts[target];
        if writer.role == Role::Sink {
            let message = "a sink writes nothing that could be read, allowed are sources and stages".to_owned();
            self.note(ConfigProblem { path, found: Some(format!("{input:?}")), message });
            return None;
        }
        let reads = reader.spec.and_then(|spec| spec.input.as_ref());
        let writes = writer.spec.and_then(|spec| spec.output.as_ref()).and_then(SchemaSpec::exact);
        if let (Some(reads), Some(writes)) = (reads, writes)
            && !reads.contains(writes)
        {
            let message = format!("{} reads {reads}, {input} writes {writes}", reader.key);
            self.note(ConfigProblem { path, found: Some(format!("{input:?}")), message });
        }
        Some(target)
    }

    fn injections(&mut self, drafts: &[Draft<'_>]) -> BTreeMap<StageName, Injections> {
        let targets = drafts.iter().map(|draft| inject::Target {
            role: draft.role,
            key: draft.key,
            name: draft.name.as_ref(),
            kind: draft.spec.map(|spec| spec.name),
            parameters: draft.spec.map_or(&[], |spec| spec.parameters),
            start: draft.spec.and_then(|spec| (spec.start)(&draft.config)),
        });
        let targets: Vec<_> = targets.collect();
        inject::injections(self.document.root.get(inject::SECTION), &targets).unwrap_or_else(|problems| {
            problems.into_iter().for_each(|problem| self.note(problem));
            BTreeMap::new()
        })
    }

    fn tests(&mut self) -> Vec<TestCase> {
        let document = self.document;
        let Some(value) = document.root.get("tests") else { return Vec::new() };
        let at = |i: usize| vec!["tests".to_owned(), i.to_string()];
        let Value::Array(sections) = value else {
            let found = Some(shape(value).to_owned());
            let message = "allowed is an array of tables: [[tests]]".to_owned();
            self.note(ConfigProblem { path: vec!["tests".to_owned()], found, message });
            return Vec::new();
        };
        let mut tests: Vec<TestCase> = Vec::new();
        for (i, section) in sections.iter().enumerate() {
            let overrides = self.test_overrides(&at(i), section.get("set"));
            let Some(section) = self.read::<TestSection>(section, &at(i)) else { continue };
            if tests.iter().any(|test| test.name == section.name) {
                let path = [at(i), vec!["name".to_owned()]].concat();
                let message = "allowed is each name once".to_owned();
                self.note(ConfigProblem { path, found: Some(format!("{:?}", section.name)), message });
            }
            tests.push(TestCase {
                name: section.name,
                overrides,
                expect: section.expect,
                others: if section.more { Others::Allow } else { Others::Fail },
            });
        }
        tests
    }

    fn test_overrides(&mut self, test: &[String], set: Option<&Value>) -> Vec<Override> {
        let mut overrides = Vec::new();
        for (key, value) in set.and_then(Value::as_table).into_iter().flatten() {
            let entry = [test, &["set".to_owned(), key.clone()]].concat();
            // A path without quotes is a table in a table: TOML took its dots apart.
            match parse_key(key).filter(|_| !value.is_table()) {
                Some(path) => overrides.push(Override { path, value: value.clone(), origin: Origin::File(entry) }),
                None => {
                    let message = "allowed is a path in quotes: set = { \"path.to.key\" = value }".to_owned();
                    self.note(ConfigProblem { path: entry, found: None, message });
                }
            }
        }
        overrides
    }

    /// Makes the paths among these keys absolute.
    fn resolve_paths(&mut self, table: &mut Table, around: &[String], keys: &[&str]) {
        for &key in keys {
            let Some(Value::String(text)) = table.get_mut(key) else { continue };
            if NOT_PATHS.contains(&text.as_str()) {
                continue;
            }
            let path = [around, &[key.to_owned()]].concat();
            // Of a variable that is not set, most likely. It would be the folder itself.
            if text.is_empty() {
                let (found, message) = (Some("\"\"".to_owned()), "allowed is a path".to_owned());
                self.note(ConfigProblem { path, found, message });
                continue;
            }
            let folder = match self.document.folder_of(&path) {
                Ok(folder) => folder,
                Err(error) => {
                    let message = format!("the current directory is not known: {error}");
                    self.note(ConfigProblem { path, found: None, message });
                    continue;
                }
            };
            let resolved: PathBuf = folder.join(&*text);
            // Both parts came as text, unless the folder's name is not UTF-8.
            match resolved.into_os_string().into_string() {
                Ok(resolved) => *text = resolved,
                Err(_) => {
                    let message = "the folder it is relative to has a name that is not UTF-8".to_owned();
                    self.note(ConfigProblem { path, found: None, message });
                }
            }
        }
    }

    fn table(&mut self, path: &[String], value: Option<&'a Value>) -> Option<&'a Table> {
        static EMPTY: std::sync::LazyLock<Table> = std::sync::LazyLock::new(Table::new);
        match value {
            None => Some(&EMPTY),
            Some(Value::Table(table)) => Some(table),
            Some(other) => {
                let found = Some(other.to_string());
                self.note(ConfigProblem { path: path.to_vec(), found, message: "allowed is a table".to_owned() });
                None
            }
        }
    }

    fn read<T: DeserializeOwned>(&mut self, value: &Value, path: &[String]) -> Option<T> {
        match config::read_value(value) {
            Ok(read) => Some(read),
            Err(problems) => {
                for problem in problems {
                    self.note_of(path, problem);
                }
                None
            }
        }
    }

    fn note(&mut self, problem: ConfigProblem) {
        self.problems.push(self.document.problem(problem));
    }

    fn note_of(&mut self, path: &[String], problem: ConfigProblem) {
        let around: Vec<_> = path.iter().map(String::as_str).collect();
        self.note(problem.within(&around));
    }
}

/// Makes a node of a draft without problems.
fn node(draft: &Draft<'_>) -> Option<Node> {
    let spec = draft.spec?;
    Some(Node {
        name: draft.name.clone()?,
        kind: spec.name,
        inputs: draft.inputs.iter().map(StageName::try_new).collect::<Result<_, _>>().ok()?,
        input: spec.input.clone(),
        output: spec.output.clone(),
        batch: draft.batch,
        config: draft.config.clone(),
    })
}

/// Whether two paths lead to one file, there or not.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    one == other || real(one).is_some_and(|one| Some(one) == real(other))
}

/// Whether a problem that a kind has found is an empty path, which was told of before.
fn is_empty_path(problem: &ConfigProblem, spec: &KindSpec, config: &Table) -> bool {
    let [key] = problem.path.as_slice() else { return false };
    spec.paths.contains(&key.as_str()) && config.get(key).and_then(Value::as_str) == Some("")
}

fn kinds_allowed(found: &str, kinds: &[KindSpec]) -> String {
    let names: Vec<_> = kinds.iter().map(|spec| spec.name).collect();
    config::allowed_words(found, &names)
}

/// A kind knows its own keys only: `input` may well be meant to be `inputs`.
fn suggest_common_key(mut problem: ConfigProblem) -> ConfigProblem {
    if let [key] = problem.path.as_slice()
        && problem.is_unknown_key()
        && !problem.message.contains("did you mean")
        && let Some(meant) = config::did_you_mean(key, COMMON_KEYS)
    {
        problem.message.push_str(&format!(" (did you mean {meant:?}?)"));
    }
    problem
}
