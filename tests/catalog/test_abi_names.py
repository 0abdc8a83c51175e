"""Names of files, buckets, platforms and sectors."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest

from catalog.geostationary import names
from stratacube.errors import UsageError

MESO = "OR_ABI-L1b-RadM1-M6C06_G17_s20193002000275_e20193002000338_c20193002000366.nc"


def test_a_name_tells_its_fields():
    assert names.parse_name(MESO) == names.FileName(
        platform="goes17",
        product="ABI-L1b-RadM",
        sector="M1",
        mode=6,
        channel=6,
        start=datetime(2019, 10, 27, 20, 0, 27, 500_000),
        end=datetime(2019, 10, 27, 20, 0, 33, 800_000),
        created=datetime(2019, 10, 27, 20, 0, 36, 600_000),
    )


@pytest.mark.parametrize(("region", "product", "sector"), [("F", "F", "F"), ("C", "C", "C"), ("M2", "M", "M2")])
def test_every_sector_is_read(region, product, sector):
    name = names.parse_name(MESO.replace("RadM1", f"Rad{region}"))
    assert name is not None
    assert (name.product, name.sector) == (f"ABI-L1b-Rad{product}", sector)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("L1b-Rad", "L2-CMIP"),
        ("RadM1", "RadM"),
        ("RadM1", "RadF1"),
        ("RadM1", "RadM3"),
        ("C06", "C17"),
        ("C06", "C00"),
        ("G17", "G15"),
        ("s2019300", "s2019000"),
        ("s2019300", "s2019367"),
        ("s201930020", "s201930024"),
        ("2019300", "2019366"),
        ("2019300", "9999365"),
        ("2019300", "0000001"),
        ("s20193002000275", "s20193002000339"),
        ("-M6C06", "-M666666666666666666666C06"),
        ("OR_", "IT_"),
        (".nc", ".nc.part"),
        ("OR_", "copy of OR_"),
    ],
)
def test_other_names_are_no_abi_files(old, new):
    changed = MESO.replace(old, new)
    assert changed != MESO
    assert names.parse_name(changed) is None


def test_the_last_day_of_a_leap_year_is_one():
    found = names.parse_name(MESO.replace("2019300", "2020366"))
    assert found.start.date() == datetime(2020, 12, 31).date()


@pytest.mark.parametrize(
    "spelt", ["c20193002000386-118900_0.nc", "c20193002000386-118900_0.nc4", "c20193002000386.nc4"]
)
def test_names_of_eumetcast_and_netcdf_4_are_read_as_satpy_reads_them(spelt):
    name = MESO.replace("c20193002000366.nc", spelt)
    ours = names.parse_name(name)
    assert ours.created == datetime(2019, 10, 27, 20, 0, 38, 600_000)
    assert ours.start == names.parse_name(MESO).start
    pattern = (
        "{system:2s}_{mission:3s}-L1b-{observation:3s}{region:s}-{mode:2s}C06_{platform:3s}_s{start:%Y%j%H%M%S%f}"
        "_e{end:%Y%j%H%M%S%f}_c{created:%Y%j%H%M%S%f}" + ("-{chid:6d}_0" if "-" in spelt else "") + ".nc{version}"
    )
    trollsift = pytest.importorskip("trollsift", reason="trollsift comes with satpy")
    assert trollsift.parse(pattern, name)["created"] == ours.created


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("OR_", "123_OR_", "it does not begin with OR_"),
        ("OR_", "FR_", "it does not begin with OR_"),
        (".nc", ".NC", "its suffix is not .nc"),
        (".nc", ".nc.gz", "its suffix is not .nc"),
        (".nc", " (1).nc", "its suffix is not .nc"),
        ("RadM1", "RadM", "its sector is none of F, C, M1 and M2"),
        ("C06", "C17", "its mode or channel"),
        ("G17", "G15", "its satellite is none of G16 to G19"),
        ("_c20193002000366", "", "its times are not three"),
        ("s2019300", "s2019366", "20193662000275 is not a time"),
        ("2019300", "9999300", "is not a time"),
        ("s20193002000275", "s20193002000339", "it ends at 2019-10-27 20:00:33.800000, before it starts at"),
    ],
)
def test_what_looks_like_a_name_is_told_with_the_reason(old, new, why):
    name = MESO.replace(old, new)
    assert name != MESO
    assert names.parse_name(name) is None
    assert why in names.nearly_a_name(name)


@pytest.mark.parametrize(
    "name", [MESO, MESO.replace("L1b-Rad", "L2-CMIP"), "." + MESO + ".a1.part", MESO + ".md5", "ABI-L1b-RadF", "x.nc"]
)
def test_other_names_look_like_nothing(name):
    assert names.nearly_a_name(name) is None


def test_times_are_those_of_strptime():
    pick = random.Random(1)
    for _ in range(200):
        time = datetime(2016, 1, 1) + timedelta(seconds=pick.randrange(10 * 366 * 86400))
        stamp = f"{time:%Y%j%H%M%S}{pick.randrange(10)}"
        parsed = names.parse_name(MESO.replace("20193002000275", stamp).replace("20193002000338", stamp))
        assert parsed is not None
        assert parsed.start == datetime.strptime(stamp, "%Y%j%H%M%S%f")


def test_real_names_agree_with_satpys_patterns(abi_data):
    trollsift = pytest.importorskip("trollsift", reason="trollsift comes with satpy")
    pattern = (
        "{system:2s}_{mission:3s}-L1b-{observation:3s}{region:s}-{mode:2s}C{channel:2d}_{platform:3s}"
        "_s{start:%Y%j%H%M%S%f}_e{end:%Y%j%H%M%S%f}_c{created:%Y%j%H%M%S%f}.nc"
    )
    found = 0
    for path in abi_data.rglob("*.nc"):
        ours = names.parse_name(path.name)
        assert (ours is None) == ("-L1b-" not in path.name)
        if ours is not None:
            theirs = trollsift.parse(pattern, path.name)
            assert ours.sector == theirs["region"]
            assert (ours.channel, ours.mode) == (theirs["channel"], int(theirs["mode"][1:]))
            assert (ours.start, ours.end, ours.created) == (theirs["start"], theirs["end"], theirs["created"])
            assert ours.platform == theirs["platform"].replace("G", "goes")
            found += 1
    assert found > 30


def test_prefix_and_bucket_are_noaas():
    assert names.prefix("M1", datetime(2019, 10, 27, 20)) == "ABI-L1b-RadM/2019/300/20"
    assert names.prefix("F", datetime(2020, 1, 1)) == "ABI-L1b-RadF/2020/001/00"
    assert names.bucket("goes18") == "noaa-goes18"


def test_hours_end_with_the_calendar():
    assert next(iter(names.hours(datetime.min, datetime.min))) == datetime.min
    last = datetime(9999, 12, 31, 22, 30)
    assert [h.hour for h in names.hours(last, datetime.max)] == [21, 22, 23]


def test_hours_cover_a_period_and_its_neighbours():
    found = list(names.hours(datetime(2019, 12, 31, 23, 59, 59), datetime(2020, 1, 1, 1)))
    assert found[0] == datetime(2019, 12, 31, 22)
    assert found[-1] == datetime(2020, 1, 1, 1)
    assert len(found) == 4


@pytest.mark.parametrize(
    "spelling", ["16", "G16", "g16", "goes-16", "GOES16", "goes_16", "noaa-goes16", "GOES-R", " 16 "]
)
def test_spellings_of_a_platform(spelling):
    assert names.normalise_platform(spelling) == "goes16"


@pytest.mark.parametrize(("spelling", "slot"), [("east", "east"), ("West", "west"), ("GOES-East", "east")])
def test_spellings_of_a_slot(spelling, slot):
    assert names.normalise_platform(spelling) == slot


@pytest.mark.parametrize("spelling", ["goes15", "", "himawari8", "g", "1"])
def test_an_unknown_platform_is_refused_with_those_there_are(spelling):
    with pytest.raises(UsageError, match="goes16, goes17, goes18, goes19"):
        names.normalise_platform(spelling)


@pytest.mark.parametrize(
    ("product", "domain", "sector"),
    [
        ("ABI-L1b-RadF", None, "F"),
        ("ABI-L1b-Rad", None, "F"),
        ("ABI-L1b-Rad", "M1", "M1"),
        ("ABI-L1b-RadM", "M2", "M2"),
        ("ABI-L1b-RadM1", None, "M1"),
        ("ABI-L1b-RadM1", "M", "M1"),
        ("L1b-RadC", "c", "C"),
        ("ABI-L1b-RadC-Reproc", None, "C"),
        ("ABI-L1b-Rad-Reproc", "F", "F"),
    ],
)
def test_product_and_domain_name_a_sector(product, domain, sector):
    assert names.parse_sector(product, domain) == sector


@pytest.mark.parametrize(
    ("product", "domain", "said"),
    [
        ("ABI-L1b-RadF", "M1", "ABI-L1b-RadF and domain M1 contradict"),
        ("ABI-L1b-RadM1", "M2", "ABI-L1b-RadM1 and domain M2 contradict"),
        ("ABI-L1b-RadM", None, "`domain=M1` or `domain=M2`"),
        ("ABI-L1b-Rad", "M3", "'M3' is unknown; the sectors are F, C, M1, M2"),
        ("ABI-L2-CMIPF", None, "'ABI-L2-CMIPF' is not read"),
    ],
)
def test_a_wrong_product_or_domain_is_refused(product, domain, said):
    with pytest.raises(UsageError, match=said):
        names.parse_sector(product, domain)


def test_a_platform_keeps_the_period():
    start, end = datetime(2020, 1, 1), datetime(2024, 1, 1)
    assert names.platforms_for("G17", start, end) == [("goes17", start, end)]


@pytest.mark.parametrize(
    ("slot", "before", "after", "day"),
    [
        ("east", "goes16", "goes19", datetime(2025, 4, 7)),
        ("west", "goes17", "goes18", datetime(2023, 1, 4)),
    ],
)
def test_a_slot_follows_the_date(slot, before, after, day):
    hour = timedelta(hours=1)
    assert names.platforms_for(slot, day - hour, day) == [(before, day - hour, day)]
    assert names.platforms_for(slot, day, day + hour) == [(after, day, day + hour)]
    across = names.platforms_for(slot, day - hour, day + hour)
    assert across == [(before, day - hour, day), (after, day, day + hour)]
    assert names.platforms_for(slot, None, None) == [(before, None, day), (after, day, None)]
    assert names.platforms_for(slot, None, day) == [(before, None, day)]


@pytest.mark.parametrize(
    ("platform", "time", "slot"),
    [
        ("goes16", datetime(2017, 7, 12), "Test"),
        ("goes16", datetime(2020, 1, 1), "East"),
        ("goes16", datetime(2025, 4, 8), "Test"),
        ("goes17", datetime(2019, 10, 27), "West"),
        ("goes18", datetime(2023, 1, 3), "Test"),
        ("goes18", datetime(2023, 1, 4), "West"),
        ("goes19", datetime(2026, 1, 1), "East"),
    ],
)
def test_orbital_slots(platform, time, slot):
    assert names.orbital_slot(platform, time) == slot


def test_names_share_what_they_have_in_common():
    """Of a year there are 800,000: what each had of its own would be a quarter of the driver's memory."""
    found = [f"OR_ABI-L1b-RadM1-M6C{c}_G16_s20201830000210_e20201830000267_c20201830000311.nc" for c in ("01", "02")]
    one, other = map(names.parse_name, found)
    assert one._replace(channel=2) == other
    assert all(a is b for a, b in zip(one, other._replace(channel=1), strict=True))
