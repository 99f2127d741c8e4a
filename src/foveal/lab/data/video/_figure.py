"""Pictures of a human figure in a pose, drawn by pybullet's renderer on the CPU. Nothing is simulated: joints are set."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._motions import JOINTS, Pose

__all__ = ["Figure", "View", "renderer"]


@dataclass(frozen=True)
class View:
    """From where a clip is seen, and in what light; angles in degrees, lengths in meters."""

    yaw: float
    pitch: float
    distance: float
    light: tuple[float, float, float]
    color: tuple[float, float, float]
    """Of the body, 0 to 1."""


class Figure:
    """A figure that takes poses and is drawn. One at a time in a process may be made; see :func:`renderer`."""

    def __init__(self, bullet: ModuleType, data: Path) -> None:
        self._bullet = bullet
        self._client = bullet.connect(bullet.DIRECT)
        path = data / "humanoid" / "humanoid.urdf"
        with _quiet():
            self._body = bullet.loadURDF(str(path), globalScaling=0.25, flags=bullet.URDF_MAINTAIN_LINK_ORDER, physicsClientId=self._client)
        count = bullet.getNumJoints(self._body, physicsClientId=self._client)
        names = {bullet.getJointInfo(self._body, index, physicsClientId=self._client)[1].decode(): index for index in range(count)}
        self._joints = {name: names[name] for name, _ in JOINTS}
        self._links = range(-1, count)

    def close(self) -> None:
        """Let go of pybullet's world."""
        self._bullet.disconnect(physicsClientId=self._client)

    def draw(self, poses: Sequence[Pose], view: View, side: int) -> NDArray[np.uint8]:
        """Frames ``(T, side, side, 3)``: the camera stands still and looks at the middle of the way."""
        bullet, client = self._bullet, self._client
        for link in self._links:
            bullet.changeVisualShape(self._body, link, rgbaColor=(*view.color, 1.0), physicsClientId=client)
        places = np.stack([pose.place for pose in poses])
        middle = (places.min(0) + places.max(0)) / 2
        seen = bullet.computeViewMatrixFromYawPitchRoll(middle.tolist(), view.distance, view.yaw, view.pitch, 0, 1)
        lens = bullet.computeProjectionMatrixFOV(fov=60, aspect=1.0, nearVal=0.1, farVal=20.0)
        frames = np.empty((len(poses), side, side, 3), np.uint8)
        for frame, pose in zip(frames, poses, strict=True):
            bullet.resetBasePositionAndOrientation(self._body, pose.place.tolist(), pose.turn.tolist(), physicsClientId=client)
            for name, value in pose.joints.items():
                bullet.resetJointStateMultiDof(self._body, self._joints[name], value.tolist(), physicsClientId=client)
            picture: Any = bullet.getCameraImage(
                *(side, side, seen, lens), lightDirection=view.light, shadow=0, renderer=bullet.ER_TINY_RENDERER, physicsClientId=client
            )
            frame[:] = np.reshape(np.asarray(picture[2], np.uint8), (side, side, 4))[..., :3]
        return frames


@contextlib.contextmanager
def renderer(data: Path) -> Iterator[Figure]:
    """A figure for as long as it is needed.

    Args:
        data: pybullet's folder of descriptions and motions.
    """
    with _quiet():
        import pybullet
    figure = Figure(pybullet, data)
    try:
        yield figure
    finally:
        figure.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library writes to the process's own streams whatever it thinks of the description of the joints; past Python's."""
    kept = [os.dup(stream) for stream in (1, 2)]
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            os.dup2(nothing, stream)
        yield
    finally:
        for stream, saved in zip((1, 2), kept, strict=True):
            os.dup2(saved, stream)
            os.close(saved)
        os.close(nothing)
