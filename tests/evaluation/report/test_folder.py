from medsynth.evaluation.report.folder import as_csv


def test_a_table_has_the_columns_of_all_rows_and_whole_numbers_stay_whole():
    rows = [{"subject": "a,b", "psnr": 0.1 + 0.2, "n": 3}, {"subject": "007", "psnr": float("inf"), "voxels": None}]
    assert as_csv(rows) == 'subject,psnr,n,voxels\n"a,b",0.30000000000000004,3,\n007,inf,,\n'
