export default {
  title: "Übersicht",
};
