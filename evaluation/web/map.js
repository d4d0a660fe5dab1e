// The map of latents: the image of the point that is nearest to the pointer; the arrow keys go from point to point.
const map = JSON.parse(document.getElementById('map-data').textContent);
const svg = document.querySelector('.map svg');
const thumbnail = document.querySelector('.thumbnail');
const caption = document.querySelector('.shown p');
const scale = 140 / map.size;  // of a thumbnail on the page
const rows = Math.ceil(map.places.length / map.columns);

svg.innerHTML = map.places.map(([x, y], i) =>
  `<circle cx="${x}" cy="${y}" r="7" fill="${map.colours[map.labels[i]]}"></circle>`).join('');
thumbnail.style.backgroundSize = `${map.columns * 140}px ${rows * 140}px`;

let chosen = -1;
function choose(i) {
  if (i === chosen) return;
  if (chosen >= 0) svg.children[chosen].classList.remove('chosen');
  chosen = i;
  svg.children[i].classList.add('chosen');
  const column = i % map.columns, row = Math.floor(i / map.columns);
  thumbnail.style.backgroundPosition = `-${column * map.size * scale}px -${row * map.size * scale}px`;
  caption.textContent = `image ${i}: ${map.classes[map.labels[i]]}`;
}

// The index of the point with the least cost(dx, dy) from (x, y); -1: all costs are infinite.
function nearest(x, y, cost) {
  let best = -1, least = Infinity;
  map.places.forEach(([px, py], i) => {
    const c = cost(px - x, py - y, i);
    if (c < least) [best, least] = [i, c];
  });
  return best;
}

svg.addEventListener('pointermove', event => {
  const box = svg.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width * 1000, y = (event.clientY - box.top) / box.height * 1000;
  choose(nearest(x, y, (dx, dy) => dx * dx + dy * dy));
});
const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
svg.addEventListener('keydown', event => {
  const direction = directions[event.key];
  if (!direction) return;
  event.preventDefault();
  const [x, y] = map.places[chosen], [ux, uy] = direction;
  const next = nearest(x, y, (dx, dy, i) => {
    const along = dx * ux + dy * uy, across = dx * uy - dy * ux;
    return i === chosen || along <= 0 ? Infinity : along + 2 * Math.abs(across);
  });
  if (next >= 0) choose(next);
});
choose(0);
