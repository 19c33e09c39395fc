"""Which pictures of a question a page shows, and how they are numbered."""

from PIL import Image

from r1v3_jax.report.pictures import Gallery


def test_a_frame_keeps_its_number_where_others_were_not_kept(tmp_path):
    names = [f"images/{letter * 24}.png" for letter in "ab"]
    (tmp_path / "rollouts/images").mkdir(parents=True)
    (tmp_path / "report/images").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "rollouts" / names[0])
    gallery = Gallery(tmp_path / "rollouts", tmp_path / "report")
    shown = gallery.pictures([names[0], "", names[1], "", names[0]], [1, 1, 2, 1, 3])
    assert [picture.number for picture in shown] == [1, 3, 5]
    assert [picture.tiles for picture in shown] == [1, 2, 3]
    assert shown[0].address == shown[2].address == names[0]
    assert shown[1].problem == "The image was not saved."
