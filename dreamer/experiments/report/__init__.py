"""Reports of run folders (`dreamer report`).

run_report         page of one run: results, curves, settings, provenance
run_media          its videos and its open-loop evaluation
ablation_report    report.html, report.md and report.json that compare dynamics cores
ablation_verdict   its conclusions, as sentences
ablation_sections  its tables
ablation_figures   its figures
analysis           its numbers, by the estimators of `statistics`
health             findings of `dreamer diagnose`
run_folders        run folders, read and reduced to what is compared
arms               names of runs by the settings that vary
document           sections, tables and media of a report, rendered with templates/*.j2
wording            numbers and lists as text
"""
