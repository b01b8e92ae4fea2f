//! How long each operation takes. Names of operations are given to choose some: `cargo bench -p benches --bench operations -- iova`.
#![forbid(unsafe_code)]

use benches::ops::{self, Operation, Subject};
use benches::record::Clock;
use benches::samples::names;
use criterion::{AxisScale, BenchmarkId, Criterion, PlotConfiguration, Throughput};
use std::time::Duration;

fn main() {
    // There are many, and most take nanoseconds.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(20)
        .configure_from_args();
    let mut operations = ops::all();
    operations.retain(|operation| operation.clocks.contains(&Clock::Wall));
    for series in operations.chunk_by(|one, other| (one.suite, one.case) == (other.suite, other.case)) {
        measure(&mut criterion, series);
    }
    criterion.final_summary();
}

#[expect(clippy::panic, reason = "what cannot be done cannot be measured either")]
fn measure(criterion: &mut Criterion, series: &[Operation]) {
    let Some(first) = series.first() else { return };
    let mut group = criterion.benchmark_group(names(first).0);
    group.plot_config(PlotConfiguration::default().summary_scale(AxisScale::Logarithmic));
    for operation in series {
        let id = match names(operation) {
            (_, function, Some(parameter)) => BenchmarkId::new(function, parameter),
            (_, function, None) => BenchmarkId::from_parameter(function),
        };
        group.throughput(Throughput::Elements(operation.per_cycle.into()));
        // Criterion comes here for each sample; and not at all for what was not chosen.
        let mut subject = None;
        group.bench_function(id, |bencher| {
            let subject = subject.get_or_insert_with(|| operation.prepare());
            bencher.iter(|| match subject.as_mut().map(Subject::cycle) {
                Ok(Ok(())) => {}
                failed => panic!("{operation:?}: {failed:?}"),
            });
        });
    }
    group.finish();
}
