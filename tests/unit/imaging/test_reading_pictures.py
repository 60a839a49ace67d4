"""PNG, JPEG, TIFF, PPM and GIF files become volumes; whatever programs disagree about is refused."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from volume_files import cut, ramp, write_volume

from medseg_core.data_errors import (
    ChannelCountError,
    ColourLabelError,
    DimensionError,
    LossyLabelError,
    UnreadableFileError,
)
from medseg_core.imaging.io import read_image, read_label

GREY = np.random.default_rng(1).integers(0, 256, (7, 5), np.uint8)  # rows, columns
COLOUR = np.random.default_rng(2).integers(0, 256, (7, 5, 3), np.uint8)


def saved(path, array, **settings):
    Image.fromarray(array).save(path, **settings)
    return path


def image_of(path, channels=1, dims=2):
    return read_image(path, spatial_dims=dims, channels=channels, case_id="c1")


def label_of(path):
    return read_label(path, spatial_dims=2, case_id="c1").voxels[0]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".pgm", ".gif", ".bmp", ".PNG"])
def test_grey_picture_is_column_by_row_without_millimetres(tmp_path, suffix):
    volume = image_of(saved(tmp_path / f"a{suffix}", GREY))
    np.testing.assert_array_equal(volume.voxels, GREY.T[None])
    assert volume.geometry.shape == (5, 7)
    assert volume.geometry.spacing_mm is None
    assert volume.geometry.spacing == (1.0, 1.0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm", ".bmp"])
def test_colour_picture_has_three_channels(tmp_path, suffix):
    volume = image_of(saved(tmp_path / f"a{suffix}", COLOUR), channels=3)
    np.testing.assert_array_equal(volume.voxels, COLOUR.transpose(2, 1, 0))


def test_jpeg_is_read_as_pillow_decodes_it(tmp_path):
    path = saved(tmp_path / "a.jpg", COLOUR)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(image_of(path, 3).voxels, np.asarray(picture).transpose(2, 1, 0))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_kept(tmp_path, suffix):
    deep = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(image_of(saved(tmp_path / f"a{suffix}", deep)).voxels[0], deep.T)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_of_colour_are_kept(tmp_path, suffix):
    deep = COLOUR.astype(np.uint16) * 257
    path = write_volume(tmp_path / f"a{suffix}", deep.transpose(1, 0, 2), is_vector=True)
    np.testing.assert_array_equal(image_of(path, 3).voxels, deep.transpose(2, 1, 0))


def test_cut_sixteen_bit_colour_png_is_refused(tmp_path):
    path = cut(write_volume(tmp_path / "a.png", ramp(9, 8, 3, dtype=np.uint16) * 17, is_vector=True))
    with pytest.raises(UnreadableFileError, match="incomplete"):
        image_of(path, 3)


def test_colour_picture_whose_channels_agree_serves_one_channel(tmp_path):
    path = saved(tmp_path / "a.png", np.repeat(GREY[..., None], 3, axis=2))
    np.testing.assert_array_equal(image_of(path).voxels, GREY.T[None])
    np.testing.assert_array_equal(label_of(path), GREY.T)


def test_colour_picture_does_not_serve_one_channel(tmp_path):
    with pytest.raises(ChannelCountError, match="Name 3 in"):
        image_of(saved(tmp_path / "a.png", COLOUR))


def test_colour_mask_is_refused(tmp_path):
    with pytest.raises(ColourLabelError, match="label numbers"):
        label_of(saved(tmp_path / "a.png", COLOUR))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".gif", ".pbm"])
def test_black_and_white_mask_is_0_and_255(tmp_path, suffix):
    path = saved(tmp_path / f"a{suffix}", GREY > 100)
    np.testing.assert_array_equal(label_of(path), np.where(GREY > 100, 255, 0).T)


def test_mask_of_booleans_in_tiff_is_0_and_255(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY > 100, photometric="minisblack")
    np.testing.assert_array_equal(label_of(tmp_path / "a.tif"), np.where(GREY > 100, 255, 0).T)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif"])
def test_mask_with_a_colour_palette_is_the_number_of_each_colour(tmp_path, suffix):
    numbers = GREY % 3
    picture = Image.fromarray(numbers).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(label_of(tmp_path / f"a{suffix}"), numbers.T)
    colours = np.asarray(picture.convert("RGB")).transpose(2, 1, 0)
    np.testing.assert_array_equal(image_of(tmp_path / f"a{suffix}", 3).voxels, colours)


def test_mask_with_a_grey_palette_is_the_grey_levels(tmp_path):
    picture = Image.fromarray(GREY % 2).convert("P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(label_of(tmp_path / "a.png"), (GREY % 2 * 255).T)


def test_opaque_transparency_is_dropped_and_other_is_refused(tmp_path):
    alpha = np.full((7, 5, 1), 255, np.uint8)
    path = saved(tmp_path / "a.png", np.concatenate([COLOUR, alpha], axis=2))
    assert image_of(path, 3).voxels.shape == (3, 5, 7)
    alpha[0, 0] = 0
    saved(path, np.concatenate([COLOUR, alpha], axis=2))
    with pytest.raises(UnreadableFileError, match="Save it without transparency"):
        image_of(path, 3)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_of_five_channels(tmp_path, planar):
    channels = ramp(5, 7, 6, dtype=np.uint16)  # channel, row, column
    pixels = channels if planar == "separate" else np.moveaxis(channels, 0, -1)
    tifffile.imwrite(tmp_path / "a.tif", pixels, planarconfig=planar, photometric="minisblack")
    np.testing.assert_array_equal(image_of(tmp_path / "a.tif", 5).voxels, channels.transpose(0, 2, 1))


def test_pages_of_a_tiff_are_channels_in_2d_and_slices_in_3d(tmp_path):
    pages = ramp(5, 7, 6, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pages, compression="zlib")
    np.testing.assert_array_equal(image_of(tmp_path / "a.tif", 5).voxels, pages.transpose(0, 2, 1))
    stack = image_of(tmp_path / "a.tif", dims=3)
    np.testing.assert_array_equal(stack.voxels[0], pages.transpose(2, 1, 0))
    assert stack.geometry.spacing_mm is None
    with pytest.raises(DimensionError, match="3D"):
        image_of(tmp_path / "a.tif")


def test_tiff_stack_with_channels(tmp_path):
    pixels = ramp(4, 2, 7, 6, dtype=np.uint16)  # slice, channel, row, column
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(
        image_of(tmp_path / "a.tif", 2, dims=3).voxels, pixels.transpose(1, 3, 2, 0)
    )


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_is_read(tmp_path, compression):
    path = saved(tmp_path / "a.tif", COLOUR, compression=compression)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(image_of(path, 3).voxels, np.asarray(picture).transpose(2, 1, 0))


def test_floating_point_tiff_is_read(tmp_path):
    values = GREY.astype(np.float32) / 7
    tifffile.imwrite(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(image_of(tmp_path / "a.tif").voxels[0], values.T)


def test_tiff_that_counts_white_as_zero_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="miniswhite")
    with pytest.raises(UnreadableFileError, match="black as 0"):
        image_of(tmp_path / "a.tif")


def test_tiff_of_several_pictures_is_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GREY)
        file.write(COLOUR, photometric="rgb")
    with pytest.raises(UnreadableFileError, match=r"2 separate pictures.*on its own"):
        image_of(tmp_path / "a.tif")


def test_gif_of_several_pictures_is_refused(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableFileError, match="holds 2 pictures"):
        image_of(tmp_path / "a.gif")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_picture_that_viewers_turn_is_refused(tmp_path, suffix):
    tags = Image.Exif()
    tags[274] = 6
    with pytest.raises(UnreadableFileError, match="Save it upright"):
        image_of(saved(tmp_path / f"a{suffix}", GREY, exif=tags))


def test_print_colours_are_refused(tmp_path):
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(UnreadableFileError, match=r"CMYK\. Save it as RGB"):
        image_of(tmp_path / "a.jpg", 3)


def test_mask_in_jpeg_is_refused_where_compression_blurred_it(tmp_path):
    mask = np.kron(GREY[:4, :4] > 100, np.ones((7, 7))).astype(np.uint8) * 255
    with pytest.raises(LossyLabelError, match="Save it from its source as PNG"):
        label_of(saved(tmp_path / "a.jpg", mask, quality=60))
    np.testing.assert_array_equal(np.unique(label_of(saved(tmp_path / "b.jpg", mask * 0))), [0])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".gif", ".ppm", ".bmp"])
@pytest.mark.parametrize("damage", ["cut", "text"])
def test_damaged_picture_is_refused_in_our_words(tmp_path, capfd, suffix, damage):
    path = saved(tmp_path / f"a{suffix}", np.kron(COLOUR, np.ones((9, 9, 1), np.uint8)))
    if damage == "cut":
        cut(path)
    else:
        path.write_text("this is no picture\n" * 20)
    with pytest.raises(UnreadableFileError, match="export or copy it again"):
        image_of(path, 3)
    assert capfd.readouterr() == ("", "")


def test_cut_compressed_tiff_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp(5, 70, 60, dtype=np.uint16) * 7919, compression="zlib")
    with pytest.raises(UnreadableFileError, match="incomplete"):
        image_of(cut(tmp_path / "a.tif"), 5)
