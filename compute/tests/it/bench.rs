//! The measurements of `tributary eval serving`, on a model so small that their figures say nothing.

use tributary_compute::bench::table::rows;
use tributary_compute::bench::{Format, Material, OURS, Part, Plan, Sample, Shape, SmallBase};
use tributary_compute::model::Base;

use super::parity::base_files;

const TINY: Shape = Shape { hidden: 256, intermediate: 256, layers: 1, heads: 12, vocab: 512 };
const LEAST: Plan = Plan { tokens: 3, repeats: 1, steps: 1 };

const fn small([config_json, tokenizer_json, safetensors]: &[Vec<u8>; 3]) -> SmallBase<'_> {
    SmallBase {
        config_json: config_json.as_slice(),
        tokenizer_json: tokenizer_json.as_slice(),
        safetensors: safetensors.as_slice(),
    }
}

#[test]
fn every_row_gets_a_figure_of_ours() {
    let (cache, files) = (tempfile::tempdir().unwrap(), base_files());
    let material = Material::prepare(cache.path(), &TINY, small(&files)).unwrap();
    let mut samples = Vec::new();
    for part in Part::ALL {
        assert_eq!(Part::from_name(&part.name()), Some(part));
        samples.extend(part.measure(&material, &LEAST).unwrap());
    }
    assert!(samples.iter().all(|sample| sample.who == OURS && sample.missing.is_none()));
    assert!(samples.iter().all(|sample| sample.value.is_some_and(f64::is_finite)), "{samples:?}");
    for row in rows(&samples) {
        // Where the system does not tell its memory, a row about memory stays empty.
        let told = cfg!(target_os = "linux") || !row.name.contains("memory");
        assert!(row.ours.is_some() || !told, "{row:?}");
        let against_ourselves = row.peer.as_deref().is_some_and(|peer| peer.starts_with("tributary"));
        assert!(row.peer_value.is_some() || !against_ourselves || !told, "{row:?}");
    }
    let text = serde_json::to_string(&samples).unwrap();
    let read: Vec<Sample> = serde_json::from_str(&text).unwrap();
    assert_eq!(rows(&read).len(), rows(&samples).len());
    for (read, written) in read.iter().zip(&samples) {
        assert_eq!((&read.measure, &read.who), (&written.measure, &written.who));
        // JSON's reader may lose a last bit.
        let difference = (read.value.unwrap() - written.value.unwrap()).abs();
        assert!(difference <= 1e-12 * written.value.unwrap().abs(), "{read:?} was {written:?}");
    }
}

#[test]
fn the_formats_hold_one_model_and_are_made_once() {
    let (cache, files) = (tempfile::tempdir().unwrap(), base_files());
    let material = Material::prepare(cache.path(), &TINY, small(&files)).unwrap();
    let weights = |format| {
        let model = Base::load(&material.model(format)).unwrap().model().merged(None).unwrap();
        let all = model.tensors().map(|tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        all.collect::<Vec<_>>().concat()
    };
    let exact = weights(Format::Full);
    let size = exact.iter().fold(0.0_f32, |size, value| size.max(value.abs()));
    for (format, most) in [(Format::Q8, 0.02), (Format::Q4, 0.2)] {
        let worst = exact.iter().zip(weights(format)).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst > 0.0 && worst < most * size, "{format:?} is off by {worst} of {size}");
    }
    let written = |path: &std::path::Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let before = written(material.folder());
    let again = Material::prepare(cache.path(), &TINY, small(&files)).unwrap();
    assert_eq!((again.folder(), written(again.folder())), (material.folder(), before));
}
