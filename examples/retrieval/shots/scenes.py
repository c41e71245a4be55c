"""Scores a run of shot embeddings as Stanford I2V scores clips, with what an hour of video takes in an index.

    python examples/retrieval/shots/scenes.py out/retrieval/shots/lstm

Each test clip's image searches the shots of all test videos, in every space; a video stands where the first of its
shots does, and the image's own video is what it has to find. Prints a line of JSON for each space.
"""

import json
import sys

from clipmill.models.checkpoints import find_checkpoint, load
from clipmill.models.embedding import arrays_of, embed
from clipmill.pipelines.evaluation.metrics.retrieval_scenes import SHORT_LIST, SceneMap
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, evaluate_retrieval
from clipmill.pipelines.evaluation.tasks.retrieval.trained import items_of, model_spaces

FLOAT32_BYTES = 4


def main(run: str) -> None:
    """Prints the scores of the run in the folder `run`."""
    checkpoint = find_checkpoint(run)
    trained = load(checkpoint)
    test = items_of(None, trained, run, needs_labels=False).of("test")
    ids, labels = test.clip_ids, ["shot"] * len(test)
    queries = arrays_of({"image": test.inputs["image"]}) | embed(trained, "query", test.inputs)
    gallery = Gallery(ids, labels, embed(trained, "gallery", test.inputs))
    spaces = model_spaces(trained, checkpoint)
    found = evaluate_retrieval(Queries(ids, labels, queries), gallery, spaces, (len(test),), full_ranks=False)
    truth = {clip: [video] for clip, video in zip(ids, test.video_ids, strict=True)}
    num_frames = float(test.inputs["video"].lengths().mean())
    hours = float((test.clip_seconds[:, 1] - test.clip_seconds[:, 0]).sum()) / 3600
    size = trained.model.bytes_per_shot(num_frames, FLOAT32_BYTES)
    for space in found.spaces:
        ranked = {
            clip: [test.video_ids[place] for place in row] for clip, row in zip(ids, space.top.tolist(), strict=True)
        }
        score = SceneMap(SHORT_LIST).update(truth, ranked).result()
        line = {
            "space": space.space,
            "scene_map@100": round(score.mean_average_precision, 4),
            "p@1": round(score.precision_at_1, 4),
            "bytes_per_hour": round(size[space.space] * len(test) / hours),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1])
