"""What a request of a chat teacher may cost at most, and that a budget holds whatever a server does."""

import asyncio
import io
import json
from base64 import b64decode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcts_scripted import GameTeacher, png, record
from PIL import Image as Pillow

from data_prep.mcts.budget import Budget, Metered, estimate
from data_prep.mcts.chat_teacher import MAX_TEXT, ChatTeacher, TeacherSettings
from data_prep.mcts.forest import Forest, grow_forest
from data_prep.mcts.questions import open_source
from data_prep.mcts.run import RunSettings, run, spent_before
from data_prep.mcts.search import SearchSettings
from data_prep.mcts.step import Step
from data_prep.mcts.teacher import BudgetSpent, TeacherFailure
from data_prep.record import Image
from data_prep.sampling import may_have_cost
from data_prep.scenes.dataset import SceneDataSettings, write_scenes
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.judges.chat import Completion
from faithful_rl.types import Reason

tokenizers = pytest.importorskip("tokenizers")
# Byte-level, of 528 tokens: it makes more of any text than the tokenizer of a large model.
TOKENIZER = Path(__file__).parents[3] / "models" / "tiny_warm_start" / "tokenizer.json"
PHRASES = {"English": "The red cup stands to the left of the plate on the table. ", "Chinese": "红色的杯子放在桌子上盘子的左边。"}
QUESTION = record(images=(Image(png(1920, 1080), None, 1920, 1080),) * 2)  # as many tokens as an image may have, twice
GAME = {"": ["a", "b"], "a": ["c", "!A"], "b": ["!B", "c"], "c": ["!A", "!B"]}


class Server:
    """Bills what vLLM would: the text's tokens in Qwen's template, an image's patches, and a completion of full length."""

    model = "billed"

    def __init__(self, thought: str = "A step.") -> None:
        self.thought, self.tokenizer, self.billed = thought, tokenizers.Tokenizer.from_file(str(TOKENIZER)), 0

    async def sample(
        self, messages: list[dict[str, Any]], *, max_tokens: int, seed: int, json_schema: dict[str, Any] | None = None
    ) -> Completion:
        text, patches = "<|im_start|>assistant\n", 0
        for message in messages:
            parts = message["content"] if isinstance(message["content"], list) else [{"type": "text", "text": message["content"]}]
            text += f"<|im_start|>{message['role']}\n" + "".join(part.get("text", "") for part in parts) + "<|im_end|>\n"
            for part in parts:
                if part["type"] == "image_url":
                    width, height = Pillow.open(io.BytesIO(b64decode(part["image_url"]["url"].split(",", 1)[1]))).size
                    patches += width * height // 784 + 2
        prompt = len(self.tokenizer.encode(text).ids) + patches
        self.billed += prompt + max_tokens
        one = {"thought": self.thought, "box": [10, 10, 200, 200]}
        alone = "thought" in (json_schema or {})["properties"]
        answer = {**one, "answer": None} if alone else {"steps": [one], "answer": "A"}
        return Completion(json.dumps(answer, ensure_ascii=False), prompt, max_tokens)

    async def start(self) -> None: ...

    async def close(self) -> None: ...


def longest(language: str) -> str:
    return (PHRASES[language] * MAX_TEXT)[:MAX_TEXT].strip()


@pytest.mark.parametrize("language", PHRASES)
@pytest.mark.parametrize("earlier", [0, 1, 9])
def test_the_price_is_an_upper_bound_of_the_whole_prompt_at_any_depth(language: str, earlier: int) -> None:
    """At depth 10 nine steps stand in the prompt, each as long as a step may be, with the region of the last one."""
    steps = tuple(Step(longest(language), (100.0 + number, 200.0, 900.0, 800.0)) for number in range(earlier))
    teacher = ChatTeacher(Server())
    price = teacher.step_tokens(QUESTION, steps)
    for ask in (teacher.next_step, teacher.rest):
        reply = asyncio.run(ask(QUESTION, steps, seed=1))
        assert reply.steps
        assert 1024 < reply.tokens <= price
    assert price < 3 * 1282 + 9 * 3 * MAX_TEXT + 6000  # and no more than the images, the steps' bytes and the fixed words


def test_steps_are_shown_in_their_own_letters() -> None:
    teacher = ChatTeacher(Server())
    words = teacher._words(QUESTION, [Step("红色的杯子")], teacher._look(QUESTION, ())[0], False, "")
    assert '{"thought": "红色的杯子", "box": null}' in words


@pytest.mark.parametrize("language", PHRASES)
def test_a_budget_holds_against_what_a_server_bills(tmp_path: Path, language: str) -> None:
    """Steps of full length, so that prompts grow with depth: 60,000 tokens are some ten requests."""
    server, budget = Server(longest(language)), Budget(limit=60_000)
    settings = SearchSettings(branching=1, rollouts=1)
    teacher = Metered(ChatTeacher(server, TeacherSettings(max_pixels=256 * 784)), budget)
    outcome = asyncio.run(grow_forest([record(f"q{n}") for n in range(9)], Forest(tmp_path, 2.0), teacher, settings, concurrent=1))
    assert "the next request may take" in outcome.budget
    assert server.billed == budget.spent <= 60_000
    assert budget.spent > 40_000  # the reserve is no waste: only the last request did not fit
    assert budget.reserved == 0


def test_an_estimate_by_hand() -> None:
    """Two simulations, one draw each, one rollout: at 0 and 1 step, and at 1 and 2."""

    class Priced(GameTeacher):
        def step_tokens(self, record: object, steps: Any) -> int:
            return 100 + 10 * len(steps)

    settings = SearchSettings(simulations=2, branching=1, rollouts=1)
    assert estimate([record()], 3, Priced(GAME), settings).tokens == 3 * ((100 + 110) + (110 + 120))
    most = estimate([QUESTION], 1, ChatTeacher(Server()), SearchSettings())
    assert 3 * 1282 * 72 < most.tokens < 3 * 3 * 1282 * 72  # of the order of its images


class FailingTeacher(GameTeacher):
    def __init__(self, *failures: Exception) -> None:
        super().__init__(GAME)
        self.failures = list(failures)

    async def next_step(self, record: Any, steps: Any, *, seed: int) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        return await super().next_step(record, steps, seed=seed)


@pytest.mark.parametrize(
    ("failures", "spent"),
    [
        ([TeacherFailure("late", retryable=True)] * 2, 50 + 50 + 10),
        ([TeacherFailure("busy", sent=False, retryable=True)] * 2, 10),
        ([TeacherFailure("late", retryable=True), TeacherFailure("busy", sent=False, retryable=True)], 50 + 10),
    ],
)
def test_a_failed_attempt_costs_its_reserve_where_a_server_may_have_worked(failures: list[Exception], spent: int) -> None:
    """A reserve is 50 tokens, an answer 10."""
    budget = Budget()
    asyncio.run(Metered(FailingTeacher(*failures), budget, pause=0.0).next_step(record(), (), seed=1))
    assert (budget.spent, budget.reserved) == (spent, 0)


def test_attempts_end_and_so_does_the_budget_between_them() -> None:
    late = TeacherFailure("late", retryable=True)
    budget = Budget()
    with pytest.raises(TeacherFailure, match="late"):
        asyncio.run(Metered(FailingTeacher(*[late] * 9), budget, attempts=3, pause=0.0).next_step(record(), (), seed=1))
    assert budget.spent == 150
    budget = Budget(limit=140)
    with pytest.raises(BudgetSpent, match="100 of 140"):
        asyncio.run(Metered(FailingTeacher(*[late] * 9), budget, attempts=3, pause=0.0).next_step(record(), (), seed=1))
    assert (budget.spent, budget.reserved) == (100, 0)
    unsent = Budget()
    with pytest.raises(TeacherFailure, match="no image"):
        asyncio.run(Metered(FailingTeacher(TeacherFailure("no image", sent=False)), unsent, pause=0.0).next_step(record(), (), seed=1))
    assert unsent.spent == 0


def test_a_request_that_is_cancelled_on_its_way_costs_its_reserve() -> None:
    class Hanging(GameTeacher):
        async def next_step(self, record: Any, steps: Any, *, seed: int) -> Any:
            await asyncio.Event().wait()

    budget = Budget()

    async def cut() -> None:
        task = asyncio.ensure_future(Metered(Hanging(GAME), budget).next_step(record(), (), seed=1))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cut())
    assert (budget.spent, budget.reserved) == (50, 0)


def test_an_endpoint_that_counts_nothing_costs_the_bound() -> None:
    class Uncounted(Server):
        async def sample(self, messages: Any, **more: Any) -> Completion:
            return Completion((await super().sample(messages, **more)).text)

    teacher = ChatTeacher(Uncounted())
    assert asyncio.run(teacher.next_step(QUESTION, (), seed=1)).tokens == teacher.step_tokens(QUESTION, ())


def test_which_failures_may_have_cost() -> None:
    assert may_have_cost(JudgeFailure(Reason.JUDGE_TIMEOUT, "late"))
    assert may_have_cost(JudgeFailure(Reason.JUDGE_ERROR, "answered 500"))
    assert not may_have_cost(JudgeFailure(Reason.JUDGE_UNAVAILABLE, "answered 429", retry_after=1.0))
    assert not may_have_cost(JudgeFailure(Reason.JUDGE_ERROR, "answered 400", retryable=False))


def test_a_server_that_is_gone_costs_nothing_and_one_that_hangs_up_does() -> None:
    """The client's own errors: nobody listens, and a server that reads the request and closes."""
    pytest.importorskip("openai")
    from faithful_rl.judges.openai_chat import OpenAIChat

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET"):
            listed = b'{"data": [{"id": "m"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ")
            writer.write(str(len(listed)).encode() + b"\r\n\r\n" + listed)
            await writer.drain()
        writer.close()

    async def failure(ask: Callable[[], Awaitable[Any]]) -> JudgeFailure:
        with pytest.raises(JudgeFailure) as caught:
            await ask()
        return caught.value

    async def both() -> tuple[JudgeFailure, JudgeFailure]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        chat = OpenAIChat(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "m", probe=False)
        await chat.start()

        def ask() -> Awaitable[Any]:
            return chat.complete([{"role": "user", "content": "x"}], choices=None, json_schema=None, max_tokens=1, deadline=60.0)

        hung_up = await failure(ask)
        server.close()
        await server.wait_closed()
        gone = await failure(ask)
        await chat.close()
        return hung_up, gone

    hung_up, gone = asyncio.run(both())
    assert may_have_cost(hung_up)
    assert not may_have_cost(gone)


def test_tokens_that_stand_in_no_tree_count_when_the_run_continues(tmp_path: Path) -> None:
    """The third request is lost: two answers of 10 tokens and its reserve of 50 belong to a simulation that was never saved."""
    write_scenes(tmp_path / "scenes", SceneDataSettings(train=1, val=1, test=1))
    source, settings = open_source(tmp_path / "scenes"), RunSettings(search=SearchSettings(simulations=2), max_unfinished=0.0)
    first = run(source, tmp_path / "out", GameTeacher(GAME, 2, TeacherFailure("late")), settings, {})
    assert (first.status, first.spent) == ("unfinished", 70)
    forest = Forest(tmp_path / "out" / "trees", 2.0)
    assert spent_before(source, tmp_path / "out", forest, settings) == 70
    second = run(source, tmp_path / "out", GameTeacher(GAME), settings, {})
    assert second.spent == 70 + forest.spent()
    assert spent_before(source, tmp_path / "out", forest, settings) == second.spent
