//! The figures of a model card: how well pictures of pieces that were not trained on are judged.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

/// A picture that was judged by a network that has not seen its piece.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// What names it.
    pub name: String,
    /// The condition it was taken under.
    pub slice: String,
    /// The true class; 0 is *good*.
    pub class: usize,
    /// Share of the picture that the defect covers, if it is known.
    pub area: Option<f64>,
    /// Probability of a defect.
    pub score: f64,
    /// The likeliest class of defect.
    pub defect: usize,
}

/// How many pictures of a kind [`Report::worst`] lists at most.
const WORST: usize = 10;

/// Defects are small up to this share of the picture, and large from the second on.
const SIZES: [f64; 2] = [0.005, 0.05];

/// Figures of a set of pictures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// What the pictures have in common.
    pub set: String,
    /// Good pictures.
    pub good: usize,
    /// Defective ones.
    pub defective: usize,
    /// Area under the receiver operating characteristic of the score; `None` without both kinds.
    pub auc: Option<f64>,
    /// Share of the defective that are not accepted.
    pub recall: Option<f64>,
    /// Share of the good that are not accepted: those rejected, and those referred.
    pub false_rejects: Option<f64>,
    /// Share of all that are referred to a person.
    pub referred: Option<f64>,
    /// Share of those rejected without a person that are defective.
    pub reject_precision: Option<f64>,
}

/// How well a class is told from all others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassFigures {
    /// The class.
    pub class: String,
    /// Pictures of it.
    pub pictures: usize,
    /// Share of those called so that are.
    pub precision: Option<f64>,
    /// Share of those that are that are called so.
    pub recall: Option<f64>,
    /// Harmonic mean of both.
    pub f1: Option<f64>,
}

/// A picture that was judged wrongly.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mistake {
    /// What names it.
    pub picture: String,
    /// Its true class.
    pub class: String,
    /// The probability of a defect that it was given.
    pub score: f64,
}

/// A whole evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// All pictures, then slice by slice, class by class, size by size. Defects of a class or size are held against all good pictures.
    pub sets: Vec<Figures>,
    /// Class by class, of the conditions that were trained on.
    pub classes: Vec<ClassFigures>,
    /// Rows are true classes, columns what they were taken for; a picture that is accepted is taken for *good*.
    pub confusion: Vec<Vec<usize>>,
    /// The good pictures that were not accepted, of the highest scores, then the defective ones that were, of the lowest: up to ten of each. Where a network is mostly right, many of
    /// them bear a wrong label.
    pub worst: Vec<Mistake>,
    /// Names of the classes.
    pub names: Vec<String>,
}

/// Evaluates judgements; `trained` are the slices that were trained on, on which classes are counted.
#[must_use]
pub fn report(judged: &[Judged], names: &[String], trained: &[String], accept_below: f64, reject_from: f64) -> Report {
    let figures = |set: String, rows: Vec<&Judged>| figures(set, &rows, accept_below, reject_from);
    let seen: Vec<&Judged> = judged.iter().filter(|row| trained.contains(&row.slice)).collect();
    let mut sets = vec![figures("conditions trained on".to_owned(), seen.clone())];
    if seen.len() < judged.len() {
        let unseen = judged.iter().filter(|row| !trained.contains(&row.slice)).collect();
        sets.push(figures("other conditions".to_owned(), unseen));
    }
    let slices: BTreeMap<&str, ()> = judged.iter().map(|row| (row.slice.as_str(), ())).collect();
    if slices.len() > 1 {
        for slice in slices.keys() {
            let rows = judged.iter().filter(|row| row.slice == *slice).collect();
            let mark = if trained.iter().any(|name| name == slice) { "" } else { ", not trained on" };
            sets.push(figures(format!("{slice}{mark}"), rows));
        }
    }
    let against_good = |wanted: &dyn Fn(&Judged) -> bool| -> Vec<&Judged> {
        seen.iter().filter(|row| row.class == 0 || wanted(row)).copied().collect()
    };
    for (class, name) in names.iter().enumerate().skip(1) {
        sets.push(figures(format!("class {name}"), against_good(&|row| row.class == class)));
    }
    let [small, large] = SIZES;
    let sizes = [
        (format!("defects up to {} % of the picture", small * 100.0), 0.0, small),
        (format!("defects of {} to {} %", small * 100.0, large * 100.0), small, large),
        (format!("defects above {} %", large * 100.0), large, f64::INFINITY),
    ];
    for (name, above, most) in sizes {
        let fits = |area: f64| area > above && area <= most;
        sets.push(figures(name, against_good(&|row| row.area.is_some_and(fits))));
    }

    let mut confusion = vec![vec![0usize; names.len()]; names.len()];
    for row in &seen {
        confusion[row.class][if row.score < accept_below { 0 } else { row.defect }] += 1;
    }
    let classes = names.iter().enumerate().map(|(class, name)| {
        let right = confusion[class][class] as f64;
        let pictures: usize = confusion[class].iter().sum();
        let called: usize = confusion.iter().map(|row| row[class]).sum();
        let precision = (called > 0).then(|| right / called as f64);
        let recall = (pictures > 0).then(|| right / pictures as f64);
        let f1 = precision.zip(recall).map(|(p, r)| if p + r > 0.0 { 2.0 * p * r / (p + r) } else { 0.0 });
        ClassFigures { class: name.clone(), pictures, precision, recall, f1 }
    });
    let worst = worst(judged, names, accept_below);
    Report { sets, classes: classes.collect(), confusion, worst, names: names.to_vec() }
}

fn worst(judged: &[Judged], names: &[String], accept_below: f64) -> Vec<Mistake> {
    let mut wrong: Vec<&Judged> = judged.iter().filter(|row| (row.class > 0) == (row.score < accept_below)).collect();
    wrong.sort_by(|a, b| b.score.total_cmp(&a.score));
    let (good, mut defective): (Vec<_>, Vec<_>) = wrong.into_iter().partition(|row| row.class == 0);
    defective.reverse();
    let first = good.into_iter().take(WORST).chain(defective.into_iter().take(WORST));
    first.map(|row| Mistake { picture: row.name.clone(), class: names[row.class].clone(), score: row.score }).collect()
}

fn figures(set: String, rows: &[&Judged], accept_below: f64, reject_from: f64) -> Figures {
    let scores = |defective: bool| rows.iter().filter(move |row| (row.class > 0) == defective).map(|row| row.score);
    let (good, defective) = (scores(false).count(), scores(true).count());
    let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
    let rejected = rows.iter().filter(|row| row.score >= reject_from).count();
    let referred = rows.iter().filter(|row| (accept_below..reject_from).contains(&row.score)).count();
    Figures {
        set,
        good,
        defective,
        auc: auc(scores(true).collect(), scores(false).collect()),
        recall: share(scores(true).filter(|&s| s >= accept_below).count(), defective),
        false_rejects: share(scores(false).filter(|&s| s >= accept_below).count(), good),
        referred: share(referred, rows.len()),
        reject_precision: share(scores(true).filter(|&s| s >= reject_from).count(), rejected),
    }
}

/// Returns the probability that a defective picture scores higher than a good one, ties half: the area under the receiver operating characteristic.
#[must_use]
pub fn auc(mut defective: Vec<f64>, mut good: Vec<f64>) -> Option<f64> {
    if defective.is_empty() || good.is_empty() {
        return None;
    }
    defective.sort_by(f64::total_cmp);
    good.sort_by(f64::total_cmp);
    let (mut below, mut upto, mut sum) = (0usize, 0usize, 0f64);
    for score in &defective {
        while good.get(below).is_some_and(|g| g < score) {
            below += 1;
        }
        upto = upto.max(below);
        while good.get(upto).is_some_and(|g| g <= score) {
            upto += 1;
        }
        sum += (below + upto) as f64 / 2.0;
    }
    Some(sum / (defective.len() * good.len()) as f64)
}

/// Tables in Markdown.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: Option<f64>| share.map_or_else(String::new, |share| format!("{:.1}", share * 100.0));
        let three = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
        writeln!(
            f,
            "| set | good | defective | AUC | recall % | good not accepted % | referred % | precision of rejects % |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|---:|---:|")?;
        for row in &self.sets {
            let Figures { set, good, defective, auc, recall, false_rejects, referred, reject_precision } = row;
            let (auc, recall, false_rejects) = (three(*auc), percent(*recall), percent(*false_rejects));
            let (referred, precision) = (percent(*referred), percent(*reject_precision));
            writeln!(
                f,
                "| {set} | {good} | {defective} | {auc} | {recall} | {false_rejects} | {referred} | {precision} |"
            )?;
        }
        writeln!(f, "\n| class | pictures | precision | recall | F1 |\n|---|---:|---:|---:|---:|")?;
        for ClassFigures { class, pictures, precision, recall, f1 } in &self.classes {
            writeln!(f, "| {class} | {pictures} | {} | {} | {} |", three(*precision), three(*recall), three(*f1))?;
        }
        writeln!(f, "\n| true class | {} |", self.names.join(" | "))?;
        writeln!(f, "|---|{}", "---:|".repeat(self.names.len()))?;
        for (name, row) in self.names.iter().zip(&self.confusion) {
            let row: Vec<String> = row.iter().map(ToString::to_string).collect();
            writeln!(f, "| {name} | {} |", row.join(" | "))?;
        }
        if self.worst.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n| judged most wrongly | true class | score |\n|---|---|---:|")?;
        for Mistake { picture, class, score } in &self.worst {
            writeln!(f, "| {picture} | {class} | {score:.3} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_counts_pairs() {
        // By hand: of six pairs four are in order and one is a tie.
        assert_eq!(auc(vec![0.9, 0.4, 0.5], vec![0.4, 0.6]), Some((2.0 + 0.5 + 1.0) / 6.0));
        assert_eq!(auc(vec![1.0], vec![]), None);
        assert_eq!(auc(vec![0.5; 4], vec![0.5; 3]), Some(0.5));
    }

    #[test]
    fn a_report_counts_what_happened() {
        let row = |slice: &str, class, score, defect| Judged {
            name: format!("{slice}-{class}"),
            slice: slice.to_owned(),
            class,
            area: Some(0.01),
            score,
            defect,
        };
        let judged =
            [row("a", 0, 0.1, 1), row("a", 0, 0.5, 1), row("a", 1, 0.95, 1), row("a", 2, 0.6, 1), row("b", 2, 0.05, 2)];
        let names = ["good", "scratch", "crack"].map(str::to_owned);
        let report = report(&judged, &names, &["a".to_owned()], 0.3, 0.9);
        let all = &report.sets[0];
        assert_eq!((all.good, all.defective, all.auc), (2, 2, Some(1.0)));
        assert_eq!((all.recall, all.false_rejects, all.referred), (Some(1.0), Some(0.5), Some(0.5)));
        assert_eq!(all.reject_precision, Some(1.0));
        assert_eq!((report.sets[1].set.as_str(), report.sets[1].recall), ("other conditions", Some(0.0)));
        assert_eq!(report.confusion, [[1, 1, 0], [0, 1, 0], [0, 1, 0]]);
        assert_eq!(report.classes[1].precision, Some(1.0 / 3.0));
        let worst: Vec<_> = report.worst.iter().map(|m| (m.picture.as_str(), m.class.as_str(), m.score)).collect();
        assert_eq!(worst, [("a-0", "good", 0.5), ("b-2", "crack", 0.05)]);
        assert!(report.to_string().contains("| b, not trained on | 0 | 1 |  | 0.0 |"), "{report}");
    }
}
