/**
 * A small music player, so that the actions play, pause and next have something to do. Its pieces are a few notes each,
 * made by the browser: nothing to load, nobody's rights.
 *
 * A browser stays silent until somebody has touched the page. The player plays nevertheless and says that nobody hears
 * it (`audible`); the first touch makes it heard.
 */

const PIECES = [
  { title: "Morning light", tempo: 132, notes: [261.6, 329.6, 392, 523.3, 392, 329.6, 293.7, 349.2, 440, 587.3, 440, 349.2] },
  { title: "Window seat", tempo: 96, notes: [220, 261.6, 329.6, 440, 329.6, 261.6, 196, 246.9, 293.7, 392, 293.7, 246.9] },
  { title: "Last train home", tempo: 112, notes: [293.7, 0, 440, 370, 0, 293.7, 246.9, 0, 370, 329.6, 277.2, 220] },
];
const LOUDNESS = 0.08;
/** Times each piece is played through. */
const ROUNDS = 4;

export class Player {
  #onChange;
  #audio = null;
  #timer = null;
  #piece = 0;
  #note = 0;

  constructor(onChange) {
    this.#onChange = onChange;
    document.addEventListener("pointerdown", () => this.#audio?.resume(), { passive: true });
    document.addEventListener("keydown", () => this.#audio?.resume(), { passive: true });
  }

  get playing() {
    return this.#timer !== null;
  }

  get title() {
    return PIECES[this.#piece].title;
  }

  /** 0 to 1. */
  get progress() {
    return this.#note / (PIECES[this.#piece].notes.length * ROUNDS);
  }

  play() {
    this.#audio ??= new AudioContext();
    this.#audio.resume();
    if (!this.playing) this.#start();
    return this.#changed();
  }

  pause() {
    clearInterval(this.#timer);
    this.#timer = null;
    return this.#changed();
  }

  next() {
    this.#piece = (this.#piece + 1) % PIECES.length;
    this.#note = 0;
    if (this.playing) {
      clearInterval(this.#timer);
      this.#start();
    }
    return this.#changed();
  }

  /** What an action's result says. */
  get state() {
    const state = { state: this.playing ? "playing" : "paused", title: this.title };
    return this.playing ? { ...state, audible: this.#audio.state === "running" } : state;
  }

  #start() {
    this.#timer = setInterval(() => this.#beat(), 60_000 / PIECES[this.#piece].tempo / 2);
  }

  #beat() {
    const { notes } = PIECES[this.#piece];
    this.#sound(notes[this.#note % notes.length]);
    this.#note += 1;
    if (this.#note >= notes.length * ROUNDS) this.next();
    else this.#onChange(this);
  }

  #sound(frequency) {
    if (frequency === 0 || this.#audio.state !== "running") return;
    const now = this.#audio.currentTime;
    const tone = new OscillatorNode(this.#audio, { type: "triangle", frequency });
    const volume = new GainNode(this.#audio, { gain: 0 });
    volume.gain.linearRampToValueAtTime(LOUDNESS, now + 0.02);
    volume.gain.exponentialRampToValueAtTime(0.0001, now + 0.6);
    tone.connect(volume).connect(this.#audio.destination);
    tone.start(now);
    tone.stop(now + 0.6);
  }

  #changed() {
    this.#onChange(this);
    return this.state;
  }
}
