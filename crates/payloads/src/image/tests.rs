//! Pictures whole and broken.

use bytes::{BufMut, Bytes, BytesMut};
use driftline_stage::Payload;
use proptest::prelude::*;

use super::*;

fn shot() -> Shot {
    Shot { camera: "line-1".to_owned(), frame: Some(7), name: Some("a/b.jpg".to_owned()), missing: 2 }
}

fn gradient(format: Format) -> Image {
    let rgb: Vec<u8> =
        (0..60 * 40).flat_map(|i| [(i % 60 * 4) as u8, (i % 60 * 3) as u8, (i % 60 * 2) as u8]).collect();
    Image::from_rgb(shot(), format, 90, (60, 40), &rgb).unwrap()
}

fn encode(image: &Image) -> Bytes {
    let mut bytes = BytesMut::new();
    image.encode(&mut bytes).unwrap();
    bytes.freeze()
}

#[test]
fn a_picture_round_trips_and_stays_a_file_that_others_read() {
    for format in [Format::Jpeg, Format::Png] {
        let image = gradient(format);
        let bytes = encode(&image);
        let back = Image::decode(&bytes).unwrap();
        assert_eq!(back, image);
        assert_eq!(back.file(), image.file());
        // The encoding is itself a picture, of the same pixels.
        let whole = Image::try_new(Shot::default(), bytes).unwrap();
        assert_eq!(whole.pixels().unwrap().luma(), back.pixels().unwrap().luma());
    }
}

#[test]
fn a_file_of_others_is_a_picture_of_which_nothing_more_is_known() {
    for format in [Format::Jpeg, Format::Png] {
        let file = gradient(format).file().clone();
        let image = Image::decode(&file).unwrap();
        assert_eq!(image.shot, Shot::default());
        assert_eq!(image.file(), &file);
    }
}

#[test]
fn what_is_measured_is_what_is_there() {
    let image = gradient(Format::Png);
    let back = Image::try_new(Shot::default(), image.file().clone()).unwrap();
    let m = back.pixels().unwrap().measures();
    assert!((m.brightness - 0.299 * 118.0 - 0.587 * 88.5 - 0.114 * 59.0).abs() < 0.6, "{m:?}");
    assert!((m.light_across.unwrap() - 1.017).abs() < 0.02 && m.light_down.unwrap().abs() < 1e-9, "{m:?}");
    assert!((m.warmth.unwrap() - 2f64.ln()).abs() < 1e-9, "{m:?}");
    assert_eq!((m.clipped, m.pixels), (0.0, 2400));

    let rgb = [255u8; 3 * 64];
    let white = Image::from_rgb(Shot::default(), Format::Png, 90, (8, 8), &rgb).unwrap();
    let m = *white.pixels().unwrap().measures();
    assert_eq!((m.brightness, m.contrast, m.sharpness, m.clipped), (255.0, 0.0, Some(0.0), 1.0));
    // The middle column and row of odd sides belong to no half.
    let odd = Image::from_rgb(Shot::default(), Format::Png, 90, (5, 3), &[200; 3 * 15]).unwrap();
    let m = *odd.pixels().unwrap().measures();
    assert_eq!((m.light_across, m.light_down), (Some(0.0), Some(0.0)));
    let black = Image::from_rgb(Shot::default(), Format::Png, 90, (1, 9), &[0; 27]).unwrap();
    let m = *black.pixels().unwrap().measures();
    assert_eq!((m.sharpness, m.light_across, m.light_down, m.warmth), (None, None, None, None));
}

/// The sharpness of spots out of focus by so many pixels, under noise of up to so much.
fn sharpness(blur: i32, noise: u32) -> f64 {
    let (reach, bright) = (2 + blur, 900 / (2 * blur + 3).pow(2));
    let is_spot = |place: i32| (place % 40 - 18).abs() < reach;
    let mut state = 1u64;
    let shades = (0..160 * 160).map(|i| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let noise = ((state >> 33) % u64::from(2 * noise + 1)) as i32 - noise as i32;
        (80 + noise + if is_spot(i % 160) && is_spot(i / 160) { bright } else { 0 }) as u8
    });
    let rgb: Vec<u8> = shades.flat_map(|shade| [shade; 3]).collect();
    let image = Image::from_rgb(Shot::default(), Format::Png, 90, (160, 160), &rgb).unwrap();
    image.pixels().unwrap().measures().sharpness.unwrap()
}

#[test]
fn blur_lowers_the_sharpness_and_noise_does_not_hide_it() {
    let sharp = sharpness(0, 0);
    assert!(sharp > 0.05, "{sharp}");
    for noise in [6, 12] {
        let (noisy, blurred) = (sharpness(0, noise), sharpness(2, noise));
        assert!((noisy / sharp - 1.0).abs() < 0.1, "{sharp} became {noisy} by noise alone");
        assert!(blurred < 0.3 * noisy, "{noisy} became {blurred} by blur");
    }
}

#[test]
fn a_jpeg_is_turned_as_its_camera_was_held() {
    // Exif with one entry: 0x0112, the orientation.
    let exif = |orientation: u8| {
        let entry = [0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
        [&b"\xff\xe1\x00\x22Exif\0\0II\x2a\0\x08\0\0\0\x01\0"[..], &entry, &[0; 4]].concat()
    };
    let file = gradient(Format::Jpeg).file().clone();
    let pixels = |orientation| {
        let file = [&file[..2], &exif(orientation), &file[2..]].concat();
        Image::decode(&file.into()).unwrap().pixels().unwrap().clone()
    };
    let (upright, turned, mirrored) = (pixels(1), pixels(6), pixels(2));
    assert_eq!((upright.width(), upright.height()), (60, 40));
    assert_eq!((turned.width(), turned.height()), (40, 60));
    // Brighter to the right, and a quarter turn clockwise: brighter below.
    assert_eq!(turned.measures().light_down, upright.measures().light_across);
    assert!(mirrored.measures().light_across.unwrap() < -0.9);
}

#[test]
fn whoever_makes_a_picture_sees_what_its_readers_see() {
    // Noise, of which JPEG takes much away.
    let rgb: Vec<u8> = (0..3 * 64 * 64u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for format in [Format::Jpeg, Format::Png] {
        let image = Image::from_rgb(shot(), format, 50, (64, 64), &rgb).unwrap();
        let read = Image::try_new(shot(), image.file().clone()).unwrap();
        assert_eq!(image.pixels().unwrap(), read.pixels().unwrap());
    }
}

#[test]
fn a_large_picture_is_kept_small() {
    let rgb = vec![90u8; 3 * 2_048 * 1_024];
    let image = Image::from_rgb(Shot::default(), Format::Jpeg, 60, (2_048, 1_024), &rgb).unwrap();
    let pixels = image.pixels().unwrap();
    assert_eq!((pixels.width(), pixels.height()), (1_024, 512));
    assert_eq!(pixels.luma().len(), 1_024 * 512);
    assert_eq!(pixels.measures().pixels, 2_048 * 1_024);
}

/// A PNG of 100,000 × 100,000 pixels in about a hundred bytes.
fn bomb() -> Bytes {
    let mut file = BytesMut::from(&b"\x89PNG\r\n\x1a\n"[..]);
    let mut chunk = |kind: &[u8; 4], body: &[u8]| {
        let mut sum = crc32fast::Hasher::new();
        sum.update(kind);
        sum.update(body);
        file.put_u32(body.len() as u32);
        file.put_slice(kind);
        file.put_slice(body);
        file.put_u32(sum.finalize());
    };
    chunk(b"IHDR", &[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0, 8, 2, 0, 0, 0]);
    chunk(b"IDAT", &[0x78, 0x9c, 0x63, 0, 0, 0, 1, 0, 1]);
    chunk(b"IEND", &[]);
    file.freeze()
}

#[test]
fn a_bomb_is_refused_by_its_size_before_it_unfolds() {
    let image = Image::decode(&bomb()).unwrap();
    let error = image.pixels().unwrap_err().to_string();
    assert_eq!(error, "size: found 100000 by 100000, allowed 1 to 16777216 pixels");
    // A JPEG whose header claims 65,500 × 65,500.
    let mut file = gradient(Format::Jpeg).file().to_vec();
    let at = file.windows(2).position(|two| two[0] == 0xff && matches!(two[1], 0xc0 | 0xc2)).unwrap();
    file[at + 5..at + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    let error = Image::decode(&file.into()).unwrap().pixels().unwrap_err();
    assert!(error.place == "size" || error.found.contains("cannot be decoded"), "{error}");
}

#[test]
fn what_is_broken_is_refused_with_what_was_found() {
    let error = |bytes: &[u8]| Image::decode(&Bytes::copy_from_slice(bytes)).unwrap_err().to_string();
    assert_eq!(
        error(b"GIF89a"),
        "byte 0: found 6 bytes that begin neither as JPEG nor as PNG, allowed a JPEG or PNG file"
    );
    assert_eq!(error(b""), "byte 0: found 0 bytes that begin neither as JPEG nor as PNG, allowed a JPEG or PNG file");
    for format in [Format::Jpeg, Format::Png] {
        let file = gradient(format).file().clone();
        let half = Image::decode(&file.slice(..file.len() / 2)).unwrap();
        let error = half.pixels().unwrap_err();
        assert!(error.found.contains("cannot be decoded"), "{error}");
        assert_eq!(half.pixels().unwrap_err(), error, "the same error each time");
    }
}

/// A JPEG of some 100 KB: noise, so that every byte of it counts.
fn noise() -> Bytes {
    let rgb: Vec<u8> = (0..400u32 * 300 * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    Image::from_rgb(shot(), Format::Jpeg, 90, (400, 300), &rgb).unwrap().file().clone()
}

#[test]
fn a_jpeg_that_is_cut_off_or_damaged_inside_is_not_filled_with_grey() {
    let file = noise();
    let decode = |file: &[u8]| Image::decode(&Bytes::copy_from_slice(file)).unwrap().pixels().map(|_| ());
    decode(&file).unwrap();
    for cut in [file.len() * 8 / 10, file.len() * 99 / 100, file.len() - 2, file.len() - 1] {
        let error = decode(&file[..cut]).unwrap_err();
        assert!(error.place == "jpeg" && error.found.contains("cannot be decoded"), "{cut}: {error}");
    }
    // A marker that has no place in a scan.
    let mut damaged = file.to_vec();
    damaged[file.len() / 2..][..2].copy_from_slice(&[0xff, 0x02]);
    assert!(decode(&damaged).unwrap_err().found.contains("cannot be decoded"));
    // The end of a thumbnail is not that of the picture; what comes after the end is nobody's business.
    let thumbnail = [&[0xff, 0xd8, 0xff, 0xe3, 0, 6, 0xff, 0xd8, 0xff, 0xd9][..], &file[2..]].concat();
    decode(&thumbnail).unwrap();
    assert!(decode(&thumbnail[..thumbnail.len() - 2]).is_err());
    decode(&[&file[..], &[0; 9], &[0xff, 0xda, 0xff]].concat()).unwrap();
    // Fill bytes before a marker, as some cameras write them.
    decode(&[&file[..file.len() - 2], &[0xff; 3], &file[file.len() - 2..]].concat()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any bytes at all are a picture or an error, never a panic; so are their pixels.
    #[test]
    fn damage_never_panics(
        jpeg in any::<bool>(), at in 0usize..4_000, with in prop::collection::vec(any::<u8>(), 1..8), cut in 0usize..4_000,
    ) {
        let mut bytes = encode(&gradient(if jpeg { Format::Jpeg } else { Format::Png })).to_vec();
        for (i, byte) in with.into_iter().enumerate() {
            if let Some(place) = bytes.get_mut(at + i) {
                *place = byte;
            }
        }
        bytes.truncate(cut.max(8));
        if let Ok(image) = Image::decode(&bytes.into())
            && let Ok(pixels) = image.pixels() {
                prop_assert_eq!(pixels.luma().len(), pixels.width() * pixels.height());
            }
    }
}
