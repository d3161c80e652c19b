//! The monitor on a broker: what it tells when the work comes and goes, and what it does without the outputs of nodes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod plant;

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use driftline_broker::{
    Broker, BrokerError, Committed, FetchLimit, Member, Poll, Producer, Settled, TopicDescription, TopicSpec, Unit,
    Wait,
};
use driftline_monitor::{Alarm, Baseline, Ending, Listener, Service, Settings, Status, alarms};
use driftline_pipeline::Plan;
use driftline_types::{GroupId, Headers, Message, Offset, Timestamp, Topic, TopicPartition};
use plant::Changes;

const MONITOR: &str = "reference = \"plant.json\"\nrun_length = 10000";
const HEALTHY: u64 = 100;
const RUN: u64 = 40;
const CHANGE: u64 = HEALTHY + 15;

/// A plant of which a stage has changed, and that nobody has watched yet.
struct Ran {
    plan: Plan,
    baseline: Arc<Baseline>,
    broker: Arc<dyn Broker>,
}

impl Ran {
    fn new() -> Self {
        let changes = Changes { paint: Some(CHANGE), ..Changes::default() };
        let baseline = Arc::new(plant::baseline(changes, HEALTHY));
        let plan = plant::plan(changes, 2, HEALTHY, RUN, "", MONITOR);
        let broker = plant::temporary();
        plant::run(&plan, &broker, plant::bins(&plan, &baseline));
        Self { plan, baseline, broker }
    }

    /// Watches it to its end on a broker, with all that `listener` hears.
    fn watch(&self, broker: Arc<dyn Broker>, listener: &Heard) -> Option<Status> {
        let service = Service::new(broker, Settings::of(&self.plan), Arc::clone(&self.baseline));
        service.run(|| Ending::Finished, listener).unwrap()
    }
}

/// How many alarms are active, and how many windows were judged.
fn stand(status: &Status) -> (usize, u64) {
    (status.alarms.iter().filter(|alarm| alarm.state.is_active()).count(), status.windows)
}

/// Remembers how things stood when the work came, and that it went.
#[derive(Default)]
struct Heard(RefCell<Vec<Option<(usize, u64)>>>);

impl Listener for Heard {
    fn alarm(&self, _alarm: &Alarm) {}
    fn judged(&self, _status: &Status) {}

    fn at_work(&self, status: Option<&Status>) {
        self.0.borrow_mut().push(status.map(stand));
    }
}

/// A broker on which a test has arranged some things.
struct Arranged {
    broker: Arc<dyn Broker>,
    /// Topics that may not be read.
    closed: Vec<Topic>,
    /// What the next member of a group hears; without it, what happens.
    script: Mutex<Option<VecDeque<Poll>>>,
}

impl Broker for Arranged {
    fn create_topic(&self, topic: &Topic, spec: &TopicSpec) -> Result<(), BrokerError> {
        self.broker.create_topic(topic, spec)
    }

    fn describe_topic(&self, topic: &Topic) -> Result<Option<TopicDescription>, BrokerError> {
        self.broker.describe_topic(topic)
    }

    fn topics(&self) -> Result<Vec<Topic>, BrokerError> {
        self.broker.topics()
    }

    fn join(&self, group: &GroupId, topics: &[Topic]) -> Result<Box<dyn Member>, BrokerError> {
        match self.script.lock().unwrap().take() {
            Some(events) => Ok(Box::new(Late { group: group.clone(), events })),
            None => self.broker.join(group, topics),
        }
    }

    fn producer(&self, name: &str) -> Result<Box<dyn Producer>, BrokerError> {
        self.broker.producer(name)
    }

    fn committed(&self, group: &GroupId, partition: &TopicPartition) -> Result<Option<Committed>, BrokerError> {
        self.broker.committed(group, partition)
    }

    fn read(&self, partition: &TopicPartition, from: Offset, limit: FetchLimit) -> Result<Vec<Message>, BrokerError> {
        if self.closed.contains(&partition.topic) {
            return Err(BrokerError::Refused { action: "read", reason: "not allowed".to_owned() });
        }
        self.broker.read(partition, from, limit)
    }
}

/// A member that hears what a test says. What it commits comes too late: another one has the work.
struct Late {
    group: GroupId,
    events: VecDeque<Poll>,
}

impl Member for Late {
    fn poll(&mut self, _limit: FetchLimit, _timeout: Duration) -> Result<Poll, BrokerError> {
        Ok(self.events.pop_front().unwrap_or(Poll::Idle))
    }

    fn submit(&mut self, _unit: Unit) {}

    fn settled(&mut self, _wait: Wait) -> Settled {
        let partition = TopicPartition::new(Topic::try_new("any").unwrap(), 0);
        Settled { written: 0, failed: Some(BrokerError::Fenced { group: self.group.clone(), partition }) }
    }

    fn lag(&self) -> Result<u64, BrokerError> {
        Ok(0)
    }

    fn lag_estimate(&self) -> Result<u64, BrokerError> {
        Ok(0)
    }
}

#[test]
fn outputs_that_may_not_be_read_are_no_examples_and_the_alarm_is_raised() {
    let ran = Ran::new();
    let nodes = ran.plan.sources.iter().chain(&ran.plan.stages);
    let closed = nodes.map(|node| ran.plan.name.output_topic(&node.name)).collect();
    let broker = Arranged { broker: Arc::clone(&ran.broker), closed, script: Mutex::default() };
    let status = ran.watch(Arc::new(broker), &Heard::default()).unwrap();
    assert_eq!(stand(&status), (1, RUN), "{}", status.sentence);
    let alarms = alarms(&*ran.broker, &ran.plan.name).unwrap();
    let firing = alarms.iter().find(|alarm| alarm.state.is_active()).unwrap();
    assert!(firing.examples.is_empty(), "{:?}", firing.examples);
}

#[test]
fn it_is_told_how_things_stand_where_the_work_is_taken_up_and_when_it_is_lost() {
    let ran = Ran::new();
    let first = Heard::default();
    let status = ran.watch(Arc::clone(&ran.broker), &first).unwrap();
    assert_eq!(first.0.into_inner(), [Some((0, 0))]);
    let found = stand(&status);
    assert_eq!(found, (1, RUN), "{}", status.sentence);

    let profiles = TopicPartition::new(ran.plan.name.profiles_topic(), 0);
    let assigned = || Poll::Assigned(vec![(profiles.clone(), Committed { next: 0, metadata: None })]);
    // Makes it commit.
    let request = Message {
        topic: ran.plan.name.control_topic(),
        partition: 0,
        offset: 0,
        key: None,
        value: Some("{\"acknowledge\":\"none\"}".into()),
        headers: Headers::default(),
        timestamp: Timestamp::default(),
    };
    for (what, script, expected) in [
        ("stands by", vec![Poll::Assigned(Vec::new())], vec![None]),
        ("gives it up", vec![assigned(), Poll::Revoking(vec![profiles.clone()])], vec![Some(found), None]),
        ("has lost it", vec![assigned(), Poll::Lost(vec![profiles.clone()])], vec![Some(found), None]),
        ("is fenced", vec![assigned(), Poll::Messages(vec![request])], vec![Some(found), None]),
    ] {
        let (broker, heard) = (Arc::clone(&ran.broker), Heard::default());
        let broker = Arranged { broker, closed: Vec::new(), script: Mutex::new(Some(script.into())) };
        assert!(ran.watch(Arc::new(broker), &heard).is_none(), "{what}");
        assert_eq!(heard.0.into_inner(), expected, "{what}");
    }
}
