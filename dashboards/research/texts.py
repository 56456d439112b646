"""Every sentence of the reports and their index, in each language they are written in.

Names in braces are filled in. In Korean no particle follows what is filled in, because which one fits depends on it.
"""

from __future__ import annotations

from enum import StrEnum


class Language(StrEnum):
    """What a report is written in."""

    EN = "en"
    KO = "ko"


_EN = {
    "title": "{sweep}: {point}",
    "nothing": "no figure yet",
    "none_within": "no trial within the constraints",
    "facts": "{date} · {state} · {counts} · recipe {recipe} · data {data} · commit {commit}",
    "unknown": "unknown",
    "conclusions": "Conclusions",
    "evidence": "Evidence",
    "settings": "Settings",
    "next": "Next step",
    "point": "{metric} {value} ({trial}, the best of {n})",
    "best": (
        "Best: {trial} (run {run}) reached {metric} {value} at step {step}, and {last} at its last step {last_step}."
    ),
    "stronger": "{trial} ({state}) had reached {value} at step {step}; the best is chosen among COMPLETE trials.",
    "chosen": (
        "It was chosen among {n} trials by this same figure, so a new measurement is more likely lower than higher."
    ),
    "chosen_min": (
        "It was chosen among {n} trials by this same figure, so a new measurement is more likely higher than lower."
    ),
    "spread": "The {n} COMPLETE trials measured alike span {low} to {high}, median {median}.",
    "one_seed": "Each setting ran with one seed: how far a repeat would differ was not measured.",
    "seeds": "Over seeds: the best settings are {settings}, mean {mean}, standard deviation {sd} (n = {n}).",
    "confirmed_holds": (
        "With other seeds: {trial} was ahead in the search with {found}, and stays so: {by_seeds}. The run that was "
        "chosen is not counted among them."
    ),
    "confirmed_other": (
        "With other seeds the order changes: {first} was ahead in the search with {first_found}, by luck of its seed "
        "as far as is known ({first_by_seeds}); {trial} holds ({by_seeds}; {found} in the search). Runs that were "
        "chosen are not counted among them."
    ),
    "confirmed_near": "The seeds of {trials} reach as far as the best one's: more of them may change the order.",
    "confirmed_unlike": "{trials}: not measured as the best was, and compared as the search compared them.",
    "confirmed_fewer": "{n} of the {all} to confirm: no other trial of the search came to its end.",
    "confirmed_fewer_within": (
        "{n} of the {all} to confirm: no other trial of the search came to its end within the constraints."
    ),
    "confirmed_none": "No run with another seed came to its end, so the search decides.",
    "confirmed_open": "The best are not confirmed yet: {n} of {all} runs with other seeds have ended.",
    "by_seeds": "mean {mean}, {low} to {high}, n = {n} of {seeds} seeds",
    "by_one_seed": "{mean}, n = {n} of {seeds} seeds, no spread",
    "confirmed_title": "With other seeds",
    "place": "place in the search",
    "there": "{metric} there",
    "mean": "mean with other seeds",
    "least_most": "least to most",
    "of_seeds": "seeds",
    "confirms": "confirms {trial}",
    "breaks": "breaks a constraint",
    "lone": "Only {n} COMPLETE trial was measured alike: nothing can be compared with it.",
    "tied": "Not told apart from the best: {trials}.",
    "told_best": "Every other COMPLETE trial is further from the best than the noise.",
    "none_near": "No other COMPLETE trial is near the best.",
    "differently": "{n} measured differently are not compared with it; they have tables of their own below.",
    "noise_seeds": (
        "Rule: two trials are told apart when they differ by more than {limit}, which two seeds of one "
        "setting do in 1 case of 20 (standard deviation {sd} over {n} repeats)."
    ),
    "noise_steps": (
        "Rule: trials that differ by no more than {limit} are not told apart; that is how far the objective "
        "of a trial moved between its last two validations (median of {n} COMPLETE trials). A larger "
        "difference may still be a seed's."
    ),
    "noise_none": "No noise could be measured, so no two trials are told apart.",
    "mattered": (
        "What mattered: {settings} (share of the variance of {metric} over {n} trials at step {step}, with "
        "the 5th to 95th percentile over trees)."
    ),
    "not_told": "Not told from chance: {settings}.",
    "mattered_not": "What mattered is not told: {note}.",
    "front": "Pareto front of {objectives}: {trials}; of {n}, each with one seed. Knee: {knee}.",
    "no_front": "No trial is on the Pareto front of {objectives} yet.",
    "compared": "{verdict}, {metric} {mean} ({span}; seeds {seeds}, scenes {scenes}): {effect} against {against}",
    "not_compared": "{verdict} ({why}): {effect} against {against}",
    "compared_rule": (
        "Rule: differences on the same scenes and with the same seeds, at the last step. A 95 % interval that leaves "
        "out 0 says better or worse; the intervals hold together for all comparisons."
    ),
    "better": "Better",
    "worse": "Worse",
    "not told apart": "Not told apart",
    "not measured": "Not measured",
    "too_few": "too few, {n} at step {step}; from {least} on",
    "mattered_nothing": "No setting was shown to matter over {n} trials at step {step}.",
    "early": "{n} of {all} trials ended early: {reasons}.",
    "targets": "Targets: {targets}.",
    "reached": "reached",
    "missed": "not reached",
    "unmeasured": "not measured",
    "alike": "Trials measured alike: protocol {protocol}; {words}",
    "untold_protocol": "not told (an older version's trials)",
    "trial": "trial",
    "state": "state",
    "run": "run",
    "best_of": "best {metric}",
    "last_of": "last {metric}",
    "at": "at step",
    "steps": "steps",
    "values": "settings",
    "more": "{n} further trials are in {file}.",
    "importance": "What mattered",
    "setting": "setting",
    "share": "share",
    "tree_spread": "5th to 95th percentile",
    "chance": "by chance, up to",
    "among": "trials",
    "verdict": "verdict",
    "matters": "matters",
    "by_chance": "not told from chance",
    "ended_early": "Ended early",
    "reason": "reason",
    "how_often": "trials",
    "for_example": "for example",
    "no_reason": "no reason was given",
    "targets_title": "Targets",
    "target": "target",
    "value": "value",
    "span": "COMPLETE trials measured alike",
    "dirty": "with changes that were not committed",
    "watch": "The sweep runs, or its driver was killed; this says which, and how far it is:",
    "go_on": "The sweep is not at its end. Go on with it:",
    "repeat": "Repeat the best setting with other seeds, to learn the noise. Save this as {file}:",
    "then": "and run it:",
    "edge": (
        "The best {setting}, {value}, lies at an end of what was searched ({ends}): look beyond it, where "
        "that is possible."
    ),
    "longer": "The best trial was still improving at its last step {step}: train longer (train.max_steps).",
    "more_trials": "Run more trials, so that it can be told what mattered (it takes {least}):",
    "drop": "Fix what was not told from chance, so that the search has less to try: {settings}.",
    "promote": "Measure the best on the test scenes and register it:",
    "look": "Look at the charts: {file}, or `mouselift ui`.",
    "index": "Reports",
    "index_facts": (
        "Made from the journals of {home} on {date}: {n}. `mouselift report SWEEP` writes a report and this page anew."
    ),
    "map": "Map of contents",
    "date": "date",
    "file": "report",
    "main_point": "main point",
    "no_report": "{sweep} (no report yet)",
    "hand": "(written by hand)",
    "damaged": "its journal cannot be read: {reason}",
    "issues": "Issues and their solutions",
    "issue": "issue",
    "sweep": "sweep",
    "solution": "solution",
    "outcome": "ended as",
    "no_issues": "None: no attempt broke, and no trial was pruned by a rule or failed.",
    "targets_index": "Targets against what was reached",
    "targets_rule": (
        "The highest or lowest figure that the best trial of a sweep reached on the validation scenes. "
        "Figures that were measured differently are in tables of their own."
    ),
    "no_targets": "Nothing was measured yet.",
    "by": "by",
    "tested": "Registered versions, on test scenes: protocol {protocol}, data {data}",
    "over_scenes": "standard deviation over scenes",
    "registry_away": "Registered versions are missing here: {reason}",
    "do_retry": "tried again from its last checkpoint",
    "do_halve": "tried again with each batch in twice as many parts",
    "do_prune": "ended as PRUNED, and the search learnt from it",
    "do_fail": "ended as FAIL; see its traceback in MLflow",
    "do_skip_rate": "pruned: too many updates were skipped; a lower optim.lr makes fewer",
    "do_white_collapse": "pruned: the picture became white",
    "do_mask_iou": "pruned: the render did not meet the mouse",
    "do_grad_norm": "pruned: gradients were too large; a lower optim.lr makes smaller ones",
    "do_no_gain": "pruned: it had stopped improving",
    "do_refused": "left out: the recipe refuses these values, and the search goes on",
    "do_resume": "take it up again: {command}",
    "do_nothing": "nothing was done",
}

_KO = {
    "title": "{sweep}: {point}",
    "nothing": "아직 수치 없음",
    "none_within": "제약을 지킨 시행 없음",
    "facts": "{date} · {state} · {counts} · 레시피 {recipe} · 데이터 {data} · 커밋 {commit}",
    "unknown": "알 수 없음",
    "conclusions": "결론",
    "evidence": "근거",
    "settings": "설정",
    "next": "다음 단계",
    "point": "{metric} {value} ({trial}, {n} 중 최고)",
    "best": "최고: {trial} (run {run}). {metric} {value} (스텝 {step}), 마지막 스텝 {last_step}에서는 {last}.",
    "stronger": "{trial}({state})은 스텝 {step}에서 {value}에 이르렀으나, 최고는 COMPLETE 시행 중에서 고릅니다.",
    "chosen": "시행 {n}개 가운데 바로 이 수치로 고른 결과이므로, 다시 측정하면 더 높기보다 더 낮을 가능성이 큽니다.",
    "chosen_min": (
        "시행 {n}개 가운데 바로 이 수치로 고른 결과이므로, 다시 측정하면 더 낮기보다 더 높을 가능성이 큽니다."
    ),
    "spread": "같은 방식으로 측정한 COMPLETE 시행 {n}개의 범위: {low} ~ {high}, 중앙값 {median}.",
    "one_seed": "설정마다 시드 하나로만 실행했습니다. 반복했을 때 얼마나 달라지는지는 측정하지 않았습니다.",
    "seeds": "여러 시드의 결과: 최고 설정은 {settings}; 평균 {mean}, 표준편차 {sd} (n = {n}).",
    "confirmed_holds": (
        "탐색에서 앞선 시행: {trial}, {found}; 다른 시드에서도 앞섭니다 ({by_seeds}). 선택의 근거가 된 실행은 여기에 "
        "세지 않습니다."
    ),
    "confirmed_other": (
        "다른 시드에서는 순서가 바뀝니다. 탐색에서 앞선 시행: {first}, {first_found}; 알려진 바로는 시드의 "
        "운이었습니다 ({first_by_seeds}). 유지된 시행: {trial} ({by_seeds}; 탐색에서는 {found}). 선택의 근거가 된 "
        "실행은 여기에 세지 않습니다."
    ),
    "confirmed_near": "시드별 결과가 최고와 겹치는 시행: {trials}. 시드를 늘리면 순서가 바뀔 수 있습니다.",
    "confirmed_unlike": "최고와 다른 방식으로 측정한 시행: {trials}. 탐색이 비교한 대로 비교합니다.",
    "confirmed_fewer": "확인할 설정 {all}개 중 {n}개: 탐색에서 끝까지 간 시행이 더 없습니다.",
    "confirmed_fewer_within": ("확인할 설정 {all}개 중 {n}개: 탐색에서 제약을 지키며 끝까지 간 시행이 더 없습니다."),
    "confirmed_none": "다른 시드로 끝까지 간 실행이 없어 탐색 결과를 따릅니다.",
    "confirmed_open": "최고 설정을 아직 확인하지 못했습니다. 다른 시드의 실행 {all}개 중 {n}개가 끝났습니다.",
    "by_seeds": "평균 {mean}, 범위 {low} ~ {high}, 시드 {seeds}개 중 n = {n}",
    "by_one_seed": "{mean}, 시드 {seeds}개 중 n = {n}, 산포 없음",
    "confirmed_title": "다른 시드의 결과",
    "place": "탐색 순위",
    "there": "탐색의 {metric}",
    "mean": "다른 시드의 평균",
    "least_most": "최소 – 최대",
    "of_seeds": "시드",
    "confirms": "{trial} 확인",
    "breaks": "제약 위반",
    "lone": "같은 방식으로 측정한 COMPLETE 시행이 {n}개뿐이어서 비교할 대상이 없습니다.",
    "tied": "최고와 구별되지 않는 시행: {trials}.",
    "told_best": "나머지 COMPLETE 시행은 모두 잡음보다 크게 최고와 차이가 납니다.",
    "none_near": "최고에 가까운 다른 COMPLETE 시행이 없습니다.",
    "differently": "다른 방식으로 측정한 {n}: 최고와 비교하지 않으며, 아래에 별도의 표가 있습니다.",
    "noise_seeds": (
        "기준: 두 시행의 차이가 {limit}보다 커야 구별된다고 봅니다. 같은 설정의 두 시드가 그만큼 차이 나는 "
        "경우는 20번 중 1번입니다 (표준편차 {sd}, 반복 {n}회)."
    ),
    "noise_steps": (
        "기준: 차이가 {limit} 이하인 시행은 구별하지 않습니다. 이 값은 한 시행의 목표 수치가 마지막 두 검증 "
        "사이에 움직인 폭입니다 (COMPLETE 시행 {n}개의 중앙값). 더 큰 차이도 시드 때문일 수 있습니다."
    ),
    "noise_none": "잡음을 측정할 수 없었으므로 어떤 두 시행도 구별하지 않습니다.",
    "mattered": (
        "중요했던 설정: {settings} (스텝 {step}, 시행 {n}개에서 {metric} 분산 중 차지하는 몫; 괄호 안은 "
        "트리별 5~95 백분위수)."
    ),
    "not_told": "우연과 구별되지 않는 설정: {settings}.",
    "mattered_not": "무엇이 중요했는지 판단하지 않았습니다: {note}.",
    "front": "{objectives}의 파레토 전선: {trials} ({n}, 각각 시드 하나). 무릎점: {knee}.",
    "no_front": "{objectives}의 파레토 전선에 놓인 시행이 아직 없습니다.",
    "compared": "{verdict}, {metric} {mean} ({span}; 시드 {seeds}, 장면 {scenes}): {effect}, 비교 대상 {against}",
    "not_compared": "{verdict} ({why}): {effect}, 비교 대상 {against}",
    "compared_rule": (
        "기준: 같은 장면과 같은 시드에서 마지막 스텝의 차이를 봅니다. 95 % 구간이 0을 포함하지 않으면 더 좋거나 "
        "나쁘다고 말합니다. 구간들은 모든 비교에 함께 성립합니다."
    ),
    "better": "더 좋음",
    "worse": "더 나쁨",
    "not told apart": "구별되지 않음",
    "not measured": "측정되지 않음",
    "too_few": "부족함, 스텝 {step}에서 {n}; 최소 {least}개 필요",
    "mattered_nothing": "시행 {n}개(스텝 {step})에서 중요하다고 밝혀진 설정이 없습니다.",
    "early": "시행 {all}개 중 {n}개가 일찍 끝났습니다: {reasons}.",
    "targets": "목표: {targets}.",
    "reached": "달성",
    "missed": "미달",
    "unmeasured": "측정 안 함",
    "alike": "같은 방식으로 측정한 시행: 프로토콜 {protocol}; {words}",
    "untold_protocol": "기록 없음 (이전 버전의 시행)",
    "trial": "시행",
    "state": "상태",
    "run": "run",
    "best_of": "최고 {metric}",
    "last_of": "마지막 {metric}",
    "at": "스텝",
    "steps": "총 스텝",
    "values": "설정값",
    "more": "나머지 시행 {n}개는 {file}에 있습니다.",
    "importance": "무엇이 중요했는가",
    "setting": "설정",
    "share": "몫",
    "tree_spread": "5~95 백분위수",
    "chance": "우연의 상한",
    "among": "시행 수",
    "verdict": "판정",
    "matters": "중요함",
    "by_chance": "우연과 구별 안 됨",
    "ended_early": "일찍 끝난 시행",
    "reason": "이유",
    "how_often": "시행 수",
    "for_example": "예",
    "no_reason": "이유가 기록되지 않음",
    "targets_title": "목표",
    "target": "목표",
    "value": "수치",
    "span": "같은 방식으로 측정한 COMPLETE 시행",
    "dirty": "커밋하지 않은 변경 있음",
    "watch": "스윕이 실행 중이거나 드라이버가 강제 종료되었습니다. 어느 쪽인지와 진행 상황을 확인합니다:",
    "go_on": "스윕이 끝나지 않았습니다. 이어서 실행:",
    "repeat": "잡음의 크기를 알 수 있도록 최고 설정을 다른 시드로 반복합니다. 아래 내용을 {file} 파일로 저장하고",
    "then": "실행합니다:",
    "edge": "최고 시행의 {setting} 값 {value}: 탐색 범위({ends})의 끝에 있습니다. 가능하면 범위를 넓힙니다.",
    "longer": "최고 시행은 마지막 스텝 {step}에서도 나아지고 있었습니다. 더 오래 학습합니다 (train.max_steps).",
    "more_trials": "무엇이 중요했는지 판단할 수 있도록 시행을 늘립니다 (최소 {least}개 필요):",
    "drop": "탐색할 것이 줄어들도록, 우연과 구별되지 않는 설정은 고정합니다: {settings}.",
    "promote": "최고 시행을 테스트 장면에서 측정하고 등록합니다:",
    "look": "차트 보기: {file} 또는 `mouselift ui`.",
    "index": "보고서 목록",
    "index_facts": (
        "{date}에 {home}의 저널로 만들었습니다: {n}. `mouselift report SWEEP` 명령이 보고서와 이 페이지를 새로 씁니다."
    ),
    "map": "목차",
    "date": "날짜",
    "file": "보고서",
    "main_point": "요점",
    "no_report": "{sweep} (아직 보고서 없음)",
    "hand": "(직접 작성)",
    "damaged": "저널을 읽을 수 없음: {reason}",
    "issues": "문제와 해결",
    "issue": "문제",
    "sweep": "스윕",
    "solution": "해결",
    "outcome": "최종 상태",
    "no_issues": "없음: 중단된 시도가 없고, 규칙으로 중지되거나 실패한 시행도 없습니다.",
    "targets_index": "목표 대비 결과",
    "targets_rule": (
        "각 스윕의 최고 시행이 검증 장면에서 얻은 수치 가운데 가장 좋은 값입니다. 다른 방식으로 측정한 "
        "수치는 별도의 표에 있습니다."
    ),
    "no_targets": "아직 측정한 것이 없습니다.",
    "by": "대상",
    "tested": "등록된 버전, 테스트 장면: 프로토콜 {protocol}, 데이터 {data}",
    "over_scenes": "장면 간 표준편차",
    "registry_away": "등록된 버전은 여기에 없습니다: {reason}",
    "do_retry": "마지막 체크포인트에서 다시 시도함",
    "do_halve": "각 배치를 두 배 더 잘게 나누어 다시 시도함",
    "do_prune": "PRUNED로 끝났고, 탐색이 이를 학습함",
    "do_fail": "FAIL로 끝남; MLflow의 트레이스백 참조",
    "do_skip_rate": "중지: 건너뛴 업데이트가 너무 많음; optim.lr 값을 낮추면 줄어듦",
    "do_white_collapse": "중지: 그림이 하얗게 됨",
    "do_mask_iou": "중지: 렌더가 마우스와 겹치지 않음",
    "do_grad_norm": "중지: 그래디언트가 너무 큼; optim.lr 값을 낮추면 작아짐",
    "do_no_gain": "중지: 더 이상 나아지지 않음",
    "do_refused": "제외함: 레시피가 받지 않는 값이며, 탐색은 계속됨",
    "do_resume": "이어서 실행: {command}",
    "do_nothing": "조치 없음",
}

TEXTS: dict[Language, dict[str, str]] = {Language.EN: _EN, Language.KO: _KO}


class Texts:
    """The sentences of one language."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self._texts = TEXTS[language]

    def __call__(self, key: str, **values: object) -> str:
        """One of them, filled in."""
        return self._texts[key].format_map(values)

    def __contains__(self, key: str) -> bool:
        return key in self._texts

    def trials(self, count: int) -> str:
        """`3 trials`."""
        if self.language == Language.KO:
            return f"시행 {count}개"
        return f"{count} trial" if count == 1 else f"{count} trials"

    def sweeps(self, count: int) -> str:
        """`3 sweeps`."""
        if self.language == Language.KO:
            return f"스윕 {count}개"
        return f"{count} sweep" if count == 1 else f"{count} sweeps"
