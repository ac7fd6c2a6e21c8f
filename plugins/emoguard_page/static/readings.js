// What was read of one answer: z per counted token and label, and the rolling means that alarms use.

export class Readings {
  constructor(about) {
    this.labels = about.labels;
    this.window = about.window;
    this.hysteresis = about.hysteresis;
    this.count = 0;
    this.z = about.labels.map(() => []);
    /** Mean of the last `window` tokens; of fewer at the beginning, where no alarm is possible. */
    this.means = about.labels.map(() => []);
    this.crossings = about.labels.map(() => []);
    this.sums = about.labels.map(() => [0]);
    this.armed = about.labels.map(() => true);
  }

  /** Takes the z (labels) of the next token that counts; returns its place. */
  add(row) {
    const place = this.count++;
    row.forEach((z, n) => {
      const sums = this.sums[n];
      sums.push(sums[place] + z);
      const width = Math.min(this.window, place + 1);
      const mean = (sums[place + 1] - sums[place + 1 - width]) / width;
      this.z[n].push(z);
      this.means[n].push(mean);
      if (place + 1 >= this.window) this.cross(n, place, mean);
    });
    return place;
  }

  cross(n, place, mean) {
    const { threshold } = this.labels[n];
    if (threshold === null) return;
    if (this.armed[n] && mean > threshold) {
      this.armed[n] = false;
      this.crossings[n].push(place);
    } else if (mean < threshold - this.hysteresis) {
      this.armed[n] = true;
    }
  }

  /** Returns the mean over the whole answer so far, null before any token. */
  mean(n) {
    return this.count ? this.sums[n][this.count] / this.count : null;
  }

  latest(n) {
    return this.count ? this.means[n][this.count - 1] : null;
  }
}
