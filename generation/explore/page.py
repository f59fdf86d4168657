"""Define the page of generate.py --explore: its controls, and what each of them acts on.

A browser's choices are in its own controls and come with every request. The server keeps only the
files that a browser uploads, so that any number of browsers have their own state.
"""

import contextlib
import functools
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from dnnlib.data import channels
from dnnlib.util import UserError, one_line
from generation.explore import drawing
from generation.explore.drawing import BETWEEN, LAST_SEED, MIXED, ONE, Drawn, SampleSpec, Views
from generation.explore.networks import (
    GENERATOR,
    LABELLING,
    OF_LABELS,
    TRANSLATING,
    Networks,
    kind_of,
)
from generation.selection import Selection

VIEWS = ("photo", "map", "overlay")
EMPTY = "an empty map"
_HELP = {
    GENERATOR: "",
    OF_LABELS: "Paint on the map; the photo is redrawn.",
    LABELLING: "Drop a photo to see its map.",
    TRANSLATING: "Drop a photo to see it translated, and translated back."}


def theme() -> gr.themes.Base:
    """Return the page's theme, in fonts that the machine has."""
    return gr.themes.Soft(primary_hue="slate", spacing_size="sm", radius_size="sm",
                          font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))


def css() -> str:
    """Return the style sheet: colours beside the switches of classes, and details."""
    rules = ["footer {display: none !important}"]
    swatch = ("content: ''; display: inline-block; width: .8em; height: .8em; margin-right: .4em; "
              "border-radius: 2px; vertical-align: -.05em; background: ")
    for label, colour in enumerate(_hex_colours(channels.MAX_CLASSES)):
        of_classes = f".classes label:nth-of-type({label}) span::before"
        of_brush = f".brush label:nth-of-type({label + 1}) span::before"
        names = f"{of_classes}, {of_brush}" if label else of_brush
        rules.append(f"{names} {{{swatch}{colour}}}")
    return "\n".join(rules)


def build_page(networks: Networks, out: Path) -> gr.Blocks:
    """Return the page.

    Args:
        out: folder in which pairs are saved.
    """
    page = Controls(networks, out)
    with gr.Blocks(title="Explore", analytics_enabled=False, fill_width=True,
                   delete_cache=(3600, 86400)) as blocks:
        page.lay_out()
        page.connect(blocks)
    return blocks


def show_errors(function: Callable) -> Callable:
    """Decorate a handler: show its errors as a line on the page."""
    @functools.wraps(function)
    def run(*args):
        try:
            return function(*args)
        except (UserError, OSError) as error:
            raise gr.Error(html.escape(one_line(error)), print_exception=False,
                           duration=20) from None
    return run


class Controls:
    """Components, and handlers that return their updates."""

    def __init__(self, networks: Networks, out: Path):
        self.networks, self.out = networks, out

    # Components

    def lay_out(self) -> None:
        """Create all components: controls on the left, pictures on the right."""
        with gr.Row():
            with gr.Column(scale=2, min_width=330):
                self.network = gr.Dropdown(label="network", elem_id="network")
                with gr.Row(equal_height=True):
                    self.about = gr.Markdown(elem_id="about")
                    self.refresh = gr.Button("refresh", scale=0, min_width=90, size="sm",
                                             elem_id="refresh")
                self._generator_controls()
                self._map_controls()
                self._photo_controls()
            with gr.Column(scale=5, min_width=500):
                self._pictures()

    def _generator_controls(self):
        with gr.Column(visible=False) as self.of_generator:
            self.what = gr.Radio((ONE, BETWEEN, MIXED), value=ONE, show_label=False,
                                 container=False, elem_id="what")
            self.seed = gr.Slider(0, LAST_SEED, 0, step=1, label="seed", elem_id="seed")
            self.other = gr.Slider(0, LAST_SEED, 1, step=1, label="second seed", visible=False,
                                   elem_id="other")
            self.position = gr.Slider(0, 1, 0.5, step=0.02, label="from first to second seed",
                                      visible=False, elem_id="position")
            self.layers = gr.CheckboxGroup(label="layers with the second seed's styles",
                                           visible=False, elem_id="layers")
            self.psi = gr.Slider(0, 1.5, 1, step=0.05, elem_id="psi",
                                 label="truncation (1: none)")
            self.noise = gr.Checkbox(True, label="noise from the seed (off: the network's own)",
                                     elem_id="noise")
            self.label = gr.Slider(0, 1, 0, step=1, label="class (the network's label)",
                                   visible=False, elem_id="label")
            with gr.Column() as self.of_classes, gr.Accordion(
                    "find pictures with ...", open=False, elem_id="only") as self.only:
                self.require = gr.CheckboxGroup(show_label=False, container=False,
                                                elem_classes="classes", elem_id="require")
                self.min_area = gr.Slider(0, 30, 0.5, step=0.5, elem_id="area",
                                          label="least area of each, in per cent of the picture")
                self.next = gr.Button("next seed with these classes", elem_id="next")
            self.save = gr.Button("save this pair", variant="primary", elem_id="save")
            self.saved = gr.Markdown(elem_id="saved")

    def _map_controls(self):
        with gr.Column(visible=False) as self.of_labels:
            self.brush = gr.Radio(label="class to paint", elem_classes="brush", elem_id="brush")
            self.start = gr.Dropdown(label="start with", elem_id="start")
            self.start_seed = gr.Slider(0, LAST_SEED, 0, step=1, label="seed of the map",
                                        visible=False, elem_id="start-seed")
            self.start_label = gr.Slider(0, 1, 0, step=1, label="class (that network's label)",
                                         visible=False, elem_id="start-label")
            self.map_file = gr.File(label="or drop a label PNG here", height=140,
                                    file_types=[".png"], elem_id="map-file")
            self.sample = gr.Slider(0, LAST_SEED, 0, step=1, label="seed of the photo's dropout",
                                    elem_id="sample")

    def _photo_controls(self):
        self.photo_file = gr.File(label="drop a photo here", file_types=["image"], height=140,
                                  visible=False, elem_id="photo-file")
        with gr.Column(visible=False) as self.of_cyclegan:
            self.direction = gr.Radio(("AtoB", "BtoA"), value="AtoB", label="direction",
                                      elem_id="direction")
            self.own_scale = gr.Checkbox(False, label="at the photo's own scale",
                                         elem_id="own-scale")

    def _pictures(self):
        with gr.Row() as self.of_maps:
            self.views = gr.CheckboxGroup(VIEWS, value=list(VIEWS), show_label=False, scale=1,
                                          container=False, elem_id="views", min_width=300)
            self.shown = gr.CheckboxGroup(show_label=False, container=False, scale=4,
                                          elem_classes="classes", elem_id="shown")
        with gr.Row(equal_height=True):
            self.editor = gr.ImageEditor(
                label="map", visible=False, type="numpy", image_mode="RGBA", sources=(),
                transforms=(), format="png", height=600, elem_id="editor",
                layers=gr.LayerOptions(allow_additional_layers=False), brush=_brush(0))
            self.pictures = [
                gr.Image(label=name, visible=False, interactive=False, format="png", height=380,
                         buttons=["download", "fullscreen"], elem_id=f"picture-{name}")
                for name in VIEWS]
        self.line = gr.Markdown(elem_id="line")
        self.strip = gr.Image(label="the two seeds, and between", visible=False, format="png",
                              interactive=False, buttons=["download", "fullscreen"],
                              elem_id="strip", show_label=False)

    # Events

    def connect(self, blocks: gr.Blocks) -> None:
        """Connect handlers to events."""
        spec = [self.network, self.label, self.what, self.seed, self.psi, self.noise, self.other,
                self.position, self.layers]
        photo = [self.photo_file, self.direction, self.own_scale]
        looks = [self.views, self.shown]
        showing = dict(fn=show_errors(self.show), inputs=[*spec, *photo, *looks],
                       outputs=[*self.pictures, self.strip, self.line])
        choosing = dict(fn=show_errors(self.choose), inputs=self.network, outputs=[
            self.about, self.of_generator, self.of_labels, self.photo_file,
            self.of_cyclegan, self.of_maps, self.shown, self.require, self.of_classes, self.layers,
            self.label, self.brush, self.start, self.start_seed, self.start_label, self.editor])
        listing = dict(fn=show_errors(self.list_networks), inputs=self.network,
                       outputs=self.network)
        starting = dict(fn=show_errors(self.start_map), inputs=[
            self.network, self.start, self.start_seed, self.start_label, self.sample], outputs=[
                self.editor, self.start_seed, self.start_label, self.pictures[0]])
        private = dict(api_visibility="private")

        blocks.load(**listing, **private)
        self.refresh.click(**listing, **private)  # the network stays, if it is still there
        self.network.change(**choosing, **private).success(**showing, **private).success(
            **starting, **private)
        gr.on([self.start.input, self.start_seed.input, self.start_label.input], **starting,
              **private, trigger_mode="always_last")
        gr.on([control.input for control in [*spec[1:], self.direction, self.own_scale, *looks]]
              + [self.photo_file.upload, self.photo_file.clear],
              **showing, **private, trigger_mode="always_last", show_progress="minimal")
        self.what.input(self.show_controls, self.what, [
            self.other, self.position, self.layers, self.only, self.save], **private)
        self.next.click(show_errors(self.search), [*spec, self.require, self.min_area], self.seed,
                        **private).success(**showing, **private)
        self.save.click(show_errors(self.save_pair), spec, self.saved, **private)
        self._connect_editor(private)

    def _connect_editor(self, private):
        self.brush.input(show_errors(self.choose_brush), [self.network, self.brush], self.editor,
                         **private)
        self.map_file.upload(show_errors(self.open_map), [self.network, self.map_file, self.sample],
                             [self.editor, self.pictures[0]], **private)
        gr.on([self.editor.change, self.sample.input], show_errors(self.paint),
              [self.network, self.editor, self.sample], self.pictures[0],
              trigger_mode="always_last", show_progress="minimal", **private)

    # Handlers

    def list_networks(self, name: str | None) -> gr.Dropdown:
        """Return the updated list of networks."""
        choices = self.networks.refresh()
        if not choices:
            self.networks.path(None)  # raises an error that says what to do
        is_there = name in [value for _, value in choices]
        return gr.Dropdown(choices, value=name if is_there else self.networks.first)

    def choose(self, name: str | None) -> tuple:
        """Return the updates of all controls for a network."""
        path, header = self.networks.path(name), self.networks.header(name)
        kind, classes = kind_of(header, path), tuple(header.get("classes", ()))
        has_maps = bool(classes) and kind in (GENERATOR, LABELLING)
        side = header["lod"]["resolution"]
        about = [f"**{header.get('variant') or 'network'}**, {side}x{side}",
                 f"{header['kimg']:g} kimg" if header.get("kimg") else "",
                 f"digest {header['digest'][:12]}", _HELP[kind]]
        label_size, num_layers = _label_size(header), 2 * (side.bit_length() - 1) - 2
        layers = [(f"{layer} ({4 << layer // 2}x{4 << layer // 2})", layer)
                  for layer in range(num_layers)]
        starts = self.networks.generators_of(classes) if kind == OF_LABELS else []
        paints, label = ["background", *classes], min(1, len(classes))  # the brush's first class
        return (
            " · ".join(filter(None, about)), gr.Column(visible=kind == GENERATOR),
            gr.Column(visible=kind == OF_LABELS),
            gr.File(value=None, visible=kind in (LABELLING, TRANSLATING)),
            gr.Column(visible=kind == TRANSLATING), gr.Row(visible=has_maps),
            gr.CheckboxGroup(classes, value=list(classes)), gr.CheckboxGroup(classes, value=[]),
            gr.Column(visible=has_maps),
            gr.CheckboxGroup(layers, value=list(range(num_layers))[:4]),
            gr.Slider(maximum=max(1, label_size - 1), value=0, visible=label_size > 1),
            gr.Radio(paints, value=paints[label]),
            gr.Dropdown([EMPTY, *starts], value=EMPTY), gr.Slider(visible=False),
            gr.Slider(visible=False),
            gr.ImageEditor(visible=kind == OF_LABELS, brush=_brush(label)))

    def show_controls(self, what: str) -> tuple:
        """Return the controls; those that act on what is drawn are visible."""
        return (gr.Slider(visible=what != ONE), gr.Slider(visible=what == BETWEEN),
                gr.CheckboxGroup(visible=what == MIXED), gr.Accordion(visible=what == ONE),
                gr.Button(visible=what == ONE))

    def show(self, name: str | None, label: float, *values: Any) -> tuple:
        """Return the updates of the pictures that a network draws, or makes from a photo."""
        *spec, photo, direction, own_scale, views, shown = values
        kind = self._kind(name)
        if kind == GENERATOR:
            with self._sampling(name, label) as sampler:
                return _updates(drawing.draw_sample(sampler, _sample_spec(*spec), shown), views)
        if photo is None or kind not in (LABELLING, TRANSLATING):
            return _updates(Drawn(Views(None), None, ""), ())
        rgb = drawing.read_photo(photo)
        if kind == LABELLING:
            with self.networks.using(name, kind) as labeller:
                return _updates(drawing.label_photo(labeller, rgb, shown), views)
        with self.networks.using(name, kind, direction=direction,
                                 own_scale=own_scale) as translator:
            translated = drawing.translate_photo(translator, rgb)
        return _updates(Drawn(Views(rgb, *translated), None, ""), VIEWS,
                        ("photo", "translated", "translated back"))

    def search(self, name: str | None, label: float, *values: Any) -> int:
        """Return the next seed whose picture shows the chosen classes."""
        *spec, require, min_area = values
        with self._sampling(name, label) as sampler:
            pass  # `search` locks it anew for every few samples, so that other browsers can draw
        chosen = Selection(tuple(require), min_area / 100)
        return drawing.search(sampler, _sample_spec(*spec), chosen, self.networks.lock)

    def save_pair(self, name: str | None, label: float, *spec: Any) -> str:
        """Save a pair; return a line about it."""
        with self._sampling(name, label) as sampler:
            return f"`{drawing.save_pair(sampler, _sample_spec(*spec), self.out)}`"

    def choose_brush(self, name: str | None, class_name: str) -> gr.ImageEditor:
        """Return the editor with the colour of a class on its brush."""
        classes = self.networks.header(name)["classes"]
        label = classes.index(class_name) + 1 if class_name in classes else 0
        return gr.ImageEditor(brush=_brush(label))

    def start_map(self, name: str | None, start: str, map_seed: float, map_label: float,
                  seed: float) -> tuple:
        """Return the editor with the map that a generator draws for a seed, or with an empty map;
        the map's sliders; the photo drawn from the map."""
        if self._kind(name) != OF_LABELS:
            return gr.ImageEditor(), gr.Slider(), gr.Slider(), gr.Image()
        header, is_drawn = self.networks.header(name), start != EMPTY
        side = header["lod"]["resolution"]
        label_map, last_label = np.zeros((side, side), np.uint8), 0
        if is_drawn:
            last_label = max(0, _label_size(self.networks.header(start)) - 1)
            with self._sampling(start, min(map_label, last_label)) as sampler:
                label_map = drawing.draw_map(sampler, int(map_seed), side,
                                             header.get("fit", "pad"))
        return (self._editor(name, label_map), gr.Slider(visible=is_drawn),
                gr.Slider(maximum=max(1, last_label), visible=last_label > 0),
                self._photo(name, label_map, seed))

    def open_map(self, name: str | None, file: str, seed: float) -> tuple:
        """Return the editor with the map of a label PNG, and its photo."""
        header = self.networks.header(name)
        label_map = drawing.read_map(file, header["lod"]["resolution"], len(header["classes"]),
                                     header.get("fit", "pad"))
        return self._editor(name, label_map), self._photo(name, label_map, seed)

    def paint(self, name: str | None, canvas: dict | None, seed: float) -> gr.Image:
        """Return the photo drawn from a painted map."""
        if canvas is None or canvas["background"] is None or self._kind(name) != OF_LABELS:
            return gr.Image()
        header = self.networks.header(name)
        return self._photo(name, drawing.from_canvas(
            canvas["background"], canvas["layers"], header["lod"]["resolution"],
            len(header["classes"])), seed)

    def _editor(self, name, label_map):
        canvas = drawing.to_canvas(label_map, len(self.networks.header(name)["classes"]))
        return gr.ImageEditor(value={"background": canvas, "layers": [], "composite": None},
                              canvas_size=canvas.shape[:2])

    def _photo(self, name, label_map, seed):
        with self.networks.using(name, OF_LABELS) as translator:
            photo = drawing.photo_of_map(translator, label_map, int(seed))
        return gr.Image(value=photo, label="photo", visible=True)

    def _kind(self, name):
        return kind_of(self.networks.header(name), self.networks.path(name))

    @contextlib.contextmanager
    def _sampling(self, name, label):
        """Yield a generator; if it takes labels, it draws `label`."""
        with self.networks.using(name, GENERATOR) as sampler:
            yield sampler.with_label(int(label)) if sampler.label_size else sampler


def _label_size(header):
    """Return the length of the labels that a generator takes; 0 if it takes none, and for other
    networks."""
    return header["networks"].get("Gs", {"config": {}})["config"].get("label_size", 0)


def _sample_spec(what, seed, psi, noise, other, position, layers):
    return SampleSpec(what, int(seed), round(psi, 2), "random" if noise else "const", int(other),
                      position, tuple(map(int, layers)))


def _updates(drawn, views, names=VIEWS):
    """Return the updates of the three pictures, the strip and the line below them."""
    has_maps = drawn.views.map is not None
    pictures = [gr.Image(value=picture, label=name, visible=picture is not None and (
        not has_maps or view in views)) for view, name, picture in zip(VIEWS, names, drawn.views)]
    return (*pictures, gr.Image(value=drawn.strip, visible=drawn.strip is not None), drawn.line)


def _brush(label):
    colour = _hex_colours(label)[label]
    return gr.Brush(colors=[colour], default_color=colour, color_mode="fixed")


def _hex_colours(num_classes):
    """Return the palette's colours as #rrggbb, the background's first."""
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in channels.palette(num_classes).tolist()]
