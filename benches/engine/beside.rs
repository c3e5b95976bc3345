//! All contenders side by side: the same work in turns, round after round, so that a disk that changes its mind does so
//! for all of them.

use longshore::io::{IoEngine, SharedFile};

use crate::{Bench, Contender, Meter, Way, Work};

/// Rounds that count; one more comes first.
const ROUNDS: usize = 9;

/// Files that are written, and then read, at once. They share the bytes of a round.
const FILES: [usize; 3] = [1, 2, 8];

/// What one contender did with so many files.
#[derive(Default)]
struct Figures {
    write: Vec<Meter>,
    read: Vec<Meter>,
}

/// Prints a table of bytes per second and CPU seconds per GiB: written until durable, and read past the page cache.
pub(crate) fn table(bench: &Bench) {
    let way = Way { direct: bench.direct, ..Way::USUAL };
    let mut contenders = crate::contenders();
    contenders.extend(IoEngine::ring(2).map(|ring| Contender::Engine("io_uring, 2 rings", ring)));
    println!(
        "{} MiB in {}, read back {}; {ROUNDS} rounds in turns: median (least-most)\n",
        bench.size >> 20,
        way.name(),
        if way.direct { "past the page cache" } else { "from the page cache" },
    );
    println!("| files | by | written, GiB/s | CPU s/GiB | read, GiB/s | CPU s/GiB |\n|---|---|---|---|---|---|");
    for count in FILES {
        let mut figures: Vec<Figures> = contenders.iter().map(|_| Figures::default()).collect();
        for round in 0..=ROUNDS {
            for (contender, figures) in contenders.iter().zip(&mut figures) {
                let files: Vec<SharedFile> = (0..count).map(|n| bench.open(n, way.direct, true)).collect();
                let work = Work { size: bench.size / count as u64, unit: way.unit, depth: way.depth };
                let (mut write, mut read) = (Meter::default(), Meter::default());
                write.measure(bench.size, || bench.write(contender, &files, work, way.durable));
                read.measure(bench.size, || bench.read(contender, &files, work));
                if round > 0 {
                    figures.write.push(write);
                    figures.read.push(read);
                }
            }
        }
        for (contender, Figures { write, read }) in contenders.iter().zip(figures) {
            let [write, read] = [write, read].map(|meters| {
                let rates = meters.iter().map(|meter| meter.gib() / meter.wall.as_secs_f64()).collect();
                let costs = meters.iter().map(|meter| meter.cpu.as_secs_f64() / meter.gib()).collect();
                format!("{} | {}", spread(rates, 2), spread(costs, 3))
            });
            println!("| {count} | {} | {write} | {read} |", contender.name());
        }
    }
}

/// A median with the least and the most.
fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let [least, middle, most] = [0, ROUNDS / 2, ROUNDS - 1].map(|at| values[at]);
    format!("{middle:.digits$} ({least:.digits$}-{most:.digits$})")
}
